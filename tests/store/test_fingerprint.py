"""fingerprint: what changes a result changes the fingerprint, and nothing else does."""

import functools
import importlib
import sys

import pytest
import torch
from torch import nn

from xai_repro.store import fingerprint

FILES = {
    "__init__.py": "",
    "core.py": "FACTOR = 2\nUNUSED = 1\n\ndef cut(x):\n    return Split(x).A * FACTOR\n\nclass Split:\n    def __init__(self, x):\n        self.A = x\n",
    "cam.py": (
        "from pack import core\nfrom pack.core import cut\n\n"
        "def grad(x):\n    '''Grad.'''\n    return cut(x)\n\n"
        "def plus(x):\n    if x < 0:\n        raise ValueError('negative')\n    return core.FACTOR + x\n\n"
        "def late(x):\n    from .core import cut as c\n    return c(x)\n\n"
        "def lone(x):\n    return x\n"
    ),
}
NAMES = ("grad", "plus", "late", "lone")


@pytest.fixture
def prints(tmp_path, monkeypatch):
    """Fingerprints of the functions of a small package after edits (file, old, new)."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack").mkdir()

    def of(*edits):
        for name, text in FILES.items():
            for file, old, new in edits:
                assert file != name or old in text
                text = text.replace(old, new) if file == name else text
            (tmp_path / "pack" / name).write_text(text)
        for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        fingerprint._parsed.cache_clear()
        cam = importlib.import_module("pack.cam")
        sys.dont_write_bytecode = before
        return {name: fingerprint.of_code(getattr(cam, name)) for name in NAMES}

    yield of
    for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
        del sys.modules[name]
    fingerprint._parsed.cache_clear()


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (("cam.py", "return cut(x)\n\n", "return -cut(x)\n\n"), {"grad"}),
        (("core.py", "FACTOR = 2", "FACTOR = 3"), {"grad", "plus", "late"}),
        (("core.py", "self.A = x", "self.A = -x"), {"grad", "late"}),
        (("core.py", "UNUSED = 1", "UNUSED = 2"), set()),
        (("cam.py", "'''Grad.'''", "'''Another text.'''"), set()),
        (("cam.py", "'negative'", "'below zero'"), set()),
        (("cam.py", "return x\n", "return x  # a comment\n"), set()),
        (("cam.py", "if x < 0", "if x <= 0"), {"plus"}),
    ],
)
def test_only_what_rests_on_a_change_changes(prints, edit, changed):
    before, after = prints(), prints(edit)
    assert {name for name in NAMES if before[name] != after[name]} == changed


def test_functions_of_a_notebook_count_by_their_code():
    def made(number):
        space = {"__name__": "__notebook__"}
        exec(f"def method(x):\n    return x + {number}", space)
        return fingerprint.of_code(space["method"])

    assert made(1) == made(1) != made(2)


def test_wrappers_and_partials_count_with_what_they_hold():
    def lift(function):
        def whole(x):
            return function(x)

        return whole

    one, two = lift(fingerprint.digest), lift(fingerprint.of_samples)
    assert fingerprint.of_code(one) != fingerprint.of_code(two)
    partials = [functools.partial(fingerprint.digest, part) for part in ("a", "a", "b", {"rule": fingerprint.of_model})]
    found = [fingerprint.of_code(one) for one in partials]
    assert found[0] == found[1] and len(set(found)) == 3


def test_models_count_by_structure_and_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    first = fingerprint.of_model(model)
    model.fingerprint = "stale"
    assert fingerprint.of_model(model) == first
    model[1].running_mean[0] = 1
    second = fingerprint.of_model(model)
    assert second != first != fingerprint.of_model(nn.Sequential(*model, nn.ReLU())) != second


def test_digest_tells_parts_apart():
    assert fingerprint.digest("ab", "c") != fingerprint.digest("a", "bc")
    assert fingerprint.digest({"a": 1, "b": 2}) == fingerprint.digest({"b": 2, "a": 1})


def test_a_function_without_a_file_counts_by_what_its_inner_functions_do():
    """As a method written in a notebook: the same in two processes (an address is not), another where a lambda inside is another."""

    def written(number):
        space = {"__name__": "notebook"}
        exec(f"def method(x):\n    return sum((lambda v: v + {number})(one) for one in x)", space)
        return fingerprint.of_code(space["method"])

    assert written(1) == written(1) != written(2)
