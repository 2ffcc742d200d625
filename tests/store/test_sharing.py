"""sharing: a repeated call costs nothing inside a block, and never gives what another call would."""

import importlib
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from toys import GapLinear, images, seeded

import xai_repro.store.sharing as module
from xai_repro.store import fingerprint
from xai_repro.store.sharing import forgetting, shared, sharing


def plain_total(model, x):
    return x.sum()


@pytest.fixture
def total():
    """A shared function of a model and a tensor, with the number of times that it ran."""

    @shared
    def total(model, x, *, factor=1):
        """The sum."""
        total.runs += 1
        return factor * (x.sum() if model is None else model(x).sum())

    total.runs = 0
    return total


def test_outside_a_block_nothing_is_kept(total):
    x = torch.ones(3)
    assert total(None, x) == total(None, x) == 3 and total.runs == 2
    with sharing():
        total(None, x)
    total(None, x)
    assert total.runs == 4 and total.__name__ == "total" and total.__doc__ == "The sum."


def test_the_same_call_runs_once(total):
    x = torch.ones(3)
    with sharing():
        first = total(None, x)
        assert total(None, x) is first and total(None, x.detach()) is first and total(None, x[:]) is first
        assert total(None, x.to(x)) is first and total(None, x.view(3)) is first
        assert total(None, x, factor=1) is first and total(x=x, factor=1, model=None) is first
        assert total.runs == 1


@pytest.mark.parametrize("other", [
    lambda x: x.clone(), lambda x: x.t(), lambda x: x[:3], lambda x: x[1:], lambda x: x.flatten(), lambda x: x.to(torch.float64),
    lambda x: x.view(torch.int32), lambda x: x[:, :1].expand(4, 4), lambda x: x[:1].expand(4, 4),
])  # fmt: skip
def test_other_tensors_are_other_calls(total, other):
    x = torch.arange(16.0).view(4, 4)
    with sharing():
        total(None, x)
        assert total(None, other(x)) == other(x).sum() and total.runs == 2


def test_other_arguments_functions_and_models_are_other_calls(total):
    x, one, two = images(), seeded(GapLinear), seeded(GapLinear)
    twice = shared(lambda model, x: 2 * model(x).sum())
    with sharing():
        assert total(one, x) == one(x).sum() and total(one, x, factor=3) == 3 * one(x).sum() and twice(one, x) == 2 * one(x).sum()
        assert total(two, x) == two(x).sum() and total(two, x, factor=3) == 3 * two(x).sum()
        assert total.runs == 4 and total(two, x, factor=3) == 3 * two(x).sum() and total.runs == 4


def test_what_is_written_in_place_counts_as_another(total):
    x, model = images(), seeded(GapLinear)
    with sharing():
        before = total(model, x)
        x.mul_(2)
        assert total(model, x) == model(x).sum() != before
        with torch.no_grad():
            model.fc.weight.normal_()
        assert total(model, x) == model(x).sum()
        model.load_state_dict(seeded(GapLinear, seed=5).state_dict())
        assert total(model, x) == model(x).sum() and total.runs == 4


def test_an_address_is_not_used_again(total):
    with sharing():
        for i in range(50):
            assert total(None, torch.full((4096,), float(i))) == 4096 * i


def test_nothing_outlives_the_block(total):
    with sharing():
        x = torch.ones(3)
        gone = weakref.ref(x)
        value = weakref.ref(total(None, x))
        del x
        assert gone() is not None and value() is not None
    assert gone() is None and value() is None


def test_blocks_within_blocks(total):
    x, y, z = torch.ones(1), torch.ones(2), torch.ones(3)
    with sharing():
        total(None, x)
        with sharing():  # joins
            total(None, x), total(None, y)
        total(None, y)
        assert total.runs == 2
        for runs in (3, 4):
            with forgetting():  # sees what there is, keeps nothing of its own
                total(None, x), total(None, y), total(None, z)
                with sharing():
                    total(None, z)
                assert total.runs == runs
        total(None, y)
        assert total.runs == 4


def test_after_an_error(total):
    x, fails = torch.ones(3), [True]

    @shared
    def sometimes(model, x):
        if fails[0]:
            raise ZeroDivisionError
        return total(model, x)

    with pytest.raises(ZeroDivisionError), sharing(), forgetting():
        sometimes(None, x)
    fails[0] = False
    sometimes(None, x), sometimes(None, x)
    assert total.runs == 2  # no block is left open
    with sharing():
        fails[0] = True
        with pytest.raises(ZeroDivisionError):
            sometimes(None, x)
        fails[0] = False
        assert sometimes(None, x) == sometimes(None, x) == 3 and total.runs == 3


def test_a_thread_is_outside(total):
    x = torch.ones(3)
    with sharing(), ThreadPoolExecutor(1) as pool:
        total(None, x)
        assert pool.submit(total, None, x).result() == 3 and total.runs == 2


def test_inference_tensors(total):
    with torch.inference_mode(), sharing():
        x = torch.ones(3)
        assert total(None, x) is total(None, x) and total.runs == 1


# -- fingerprints -------------------------------------------------------------------------------------------------------------

METRIC = """
from pack.sharing import shared

def metric(maps):
    return area(maps)

@shared
def area(maps):
    return maps + 1

@shared
def other(maps):
    return maps + 2
"""


@pytest.fixture
def prints(tmp_path, monkeypatch):
    """Fingerprints of a metric, of the shared function that it uses, and of one that it does not, after an edit."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        fingerprint._parsed.cache_clear()

    def of(old="", new=""):
        for name, text in {"metric.py": METRIC, "sharing.py": Path(module.__file__).read_text()}.items():
            (tmp_path / "pack" / name).write_text(text.replace(old, new) if old else text)
        forget()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        pack = importlib.import_module("pack.metric")
        return [fingerprint.of_code(getattr(pack, name)) for name in ("metric", "area", "other")]

    yield of
    forget()


@pytest.mark.parametrize("edit, changed", [
    (("maps + 1", "maps + 3"), [True, True, False]), (("maps + 2", "maps + 3"), [False, False, True]),
    (("argument.dtype, ", ""), [True, True, True]), (("The model must not change", "Anything may change"), [False, False, False]),
])  # fmt: skip
def test_a_fingerprint_sees_through_the_decorator(prints, edit, changed):
    before, after = prints(), prints(*edit)
    assert [b != a for b, a in zip(before, after)] == changed


def test_a_fingerprint_is_the_same_in_every_process(prints):
    """The decorated function itself, too: its byte code would not do, since nested code has an address in it."""
    assert prints() == prints()
    assert shared(plain_total).__qualname__.split(".")[0] == "shared"  # a definition of its file, which is where it is looked for
