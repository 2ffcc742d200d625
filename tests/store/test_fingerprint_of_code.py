"""fingerprint.of_code: distinct code has distinct fingerprints, equal code equal ones, in every process."""

import functools
import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xai_repro.store import fingerprint

of = fingerprint.of_code


def written(text, name="f", **names):
    """What a cell of a notebook defines: there is no file to read."""
    space = {"__name__": "__main__", **names}
    exec(text, space)
    return space[name]


# -- distinct code --------------------------------------------------------------------------------------------------------------

CELLS = {
    "number": "def f(x):\n    return x + {}",
    "default": "def f(x, k={}):\n    return x + k",
    "keyword default": "def f(x, *, k={}):\n    return x + k",
    "global": "K = {}\ndef f(x):\n    return x + K",
    "global list": "K = [1, [{}]]\ndef f(x):\n    return x + K[1][0]",
    "helper": "def g(x):\n    return x + {}\ndef f(x):\n    return g(x)",
    "helper of a helper": "def h(x):\n    return x + {}\ndef g(x):\n    return h(x)\ndef f(x):\n    return [g(y) for y in x]",
    "lambda": "f = lambda x: x + {}",
    "closure": "def make(k):\n    def f(x):\n        return x + k\n    return f\nf = make({})",
    "nested": "def f(x):\n    def g(y):\n        return y + {}\n    return g(x)",
    "partial": "import functools\ndef g(x, k):\n    return x + k\nf = functools.partial(g, k={})",
    "object": "class F:\n    def __init__(self, k):\n        self.k = k\n    def __call__(self, x):\n        return x + self.k\nf = F({})",
    "slots": "class F:\n    __slots__ = ('k',)\n    def __init__(self, k):\n        self.k = k\n    def __call__(self, x):\n        return x + self.k\nf = F({})",
    "class": "class F:\n    def __call__(self, x):\n        return x + {}\nf = F()",
    "base class": "class G:\n    def add(self, x):\n        return x + {}\nclass F(G):\n    def __call__(self, x):\n        return self.add(x)\nf = F()",
    "attribute of a class": "class F:\n    k = {}\n    def __call__(self, x):\n        return x + self.k\nf = F()",
    "property": "class F:\n    @property\n    def k(self):\n        return {}\n    def __call__(self, x):\n        return x + self.k\nf = F()",
    "bound method": "class F:\n    def add(self, x):\n        return x + {}\nf = F().add",
    "method": "class F:\n    def add(self, x):\n        return x + {}\nf = F.add",
    "static method": "class F:\n    @staticmethod\n    def add(x):\n        return x + {}\nf = F.add",
    "class method": "class F:\n    @classmethod\n    def add(cls, x):\n        return x + {}\nf = F.add",
    "cache": "import functools\n@functools.lru_cache\ndef f(x):\n    return x + {}",
    "decorator": "import functools\ndef d(g):\n    @functools.wraps(g)\n    def whole(x):\n        return g(x) + {}\n    return whole\n@d\ndef f(x):\n    return x",
    "decorated": "import functools\ndef d(g):\n    @functools.wraps(g)\n    def whole(x):\n        return g(x)\n    return whole\n@d\ndef f(x):\n    return x + {}",
    "set": "def f(x):\n    return x in {{'a', 'b', 'c', 'd', {}}}",
}  # fmt: skip


@pytest.mark.parametrize("kind", CELLS)
def test_cells_count_by_what_they_do(kind):
    one, again, other = (of(written(CELLS[kind].format(number))) for number in (1, 1, 2))
    assert one == again != other


def test_distinct_things_are_distinct():
    cells = [of(written(text.format(1))) for name, text in CELLS.items() if name not in ("lambda", "method", "static method")]  # the same code as others
    assert len(set(cells)) == len(cells)


def test_equal_code_is_equal_in_every_process(tmp_path):
    """Texts are hashed anew in every process, and addresses are others."""
    script = tmp_path / "cells.py"
    script.write_text(
        "import sys, torch\nfrom xai_repro.store import fingerprint\n"
        f"cells = {CELLS!r}\n"
        "for text in cells.values():\n"
        "    space = {'__name__': '__main__'}\n"
        "    exec(text.format(1), space)\n"
        "    print(fingerprint.of_code(space['f']))\n"
        "def own(x):\n    return x\n"
        "print(fingerprint.of_code(own), fingerprint.of_code(lambda x: own(x)), fingerprint.of_code(torch.relu))\n"
    )
    seen = [
        subprocess.run([sys.executable, script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    ]
    assert seen[0] == seen[1] and len(seen[0].split()) == len(CELLS) + 3
    assert seen[0].split()[: len(CELLS)] == [of(written(text.format(1))) for text in CELLS.values()]


# -- functions of files ------------------------------------------------------------------------------------------------------------

FILE = """
import functools
K = 2
TEXT = "a"
PAIR = (1, 2)
def pair():
    return (lambda x: x + 1), (lambda x: x + 2)
def inner(kind):
    if kind:
        def f(x):
            return x
    else:
        def f(x):
            return -x
    return f
class Both:
    def one(self, x):
        return x
    def other(self, x):
        return -x
    def same(self, x):
        return -x
    @staticmethod
    def static(x):
        return x
    def __call__(self, x):
        return x * K
class Scaled:
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, x):
        return x * self.factor
small = lambda x: x * K
def large(x):
    return helper(x) * K
def helper(x):
    return len(TEXT) * PAIR[0]
def outer(k):
    def f(x, scale=k):
        return x * scale
    return f
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The module of a user's own file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_methods.py").write_text(FILE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield importlib.import_module("own_methods")
    del sys.modules["own_methods"]


def test_functions_of_one_definition_are_told_apart(file):
    things = [*file.pair(), file.inner(True), file.inner(False), file.Both.one, file.Both.other, file.Both().one, file.Both.static, file.Both, file.Both()]
    things += [file.Scaled(1), file.Scaled(2), file.small, file.large, functools.partial(file.large), functools.partial(file.small)]
    things += [functools.partial(file.large, 1), functools.partial(file.large, 2), functools.partial(file.large, 1, 2), functools.partial(file.large, 2, 1)]
    things += [functools.partial(file.large, torch.ones(2)), functools.partial(file.large, torch.zeros(2)), functools.partial(file.large, np.ones(2)), functools.partial(file.large, None)]
    things += [functools.partial(file.large, [1, [2]]), functools.partial(file.large, [[1], 2]), functools.partial(file.large, "1"), functools.partial(file.large, True)]
    things += [file.outer(1), file.outer(2), torch.relu, torch.sigmoid, F.relu, functools.partial(torch.relu), functools.partial(F.interpolate, size=2), functools.partial(F.interpolate, size=3)]
    found = [of(one) for one in things]
    assert len(set(found)) == len(found) and found == [of(one) for one in things]
    assert of(file.Both.other) == of(file.Both.other) and of(file.outer(1)) == of(file.outer(1))


@pytest.mark.parametrize("name, value, changed", [
    ("K", 3, ("small", "large", "call")), ("TEXT", "b", ("large",)), ("PAIR", (1, 3), ("large",)), ("K", 2, ()), ("unused", 3, ()),
])  # fmt: skip
def test_a_global_that_is_bound_anew_is_noticed(file, monkeypatch, name, value, changed):
    things = {"small": file.small, "large": file.large, "call": file.Both().__call__}
    before = {key: of(one) for key, one in things.items()}
    monkeypatch.setattr(file, name, value, raising=False)
    assert tuple(key for key, one in things.items() if of(one) != before[key]) == changed


def test_a_closure_that_is_bound_anew_is_noticed():
    def make():
        k = 1

        def f(x):
            return x + k

        def bind(value):
            nonlocal k
            k = value

        return f, bind

    f, bind = make()
    before = of(f)
    bind(2)
    assert of(f) != before
    bind(1)
    assert of(f) == before


def test_a_cell_that_is_run_again_is_noticed():
    space = {"__name__": "__main__"}
    exec("def g(x):\n    return x\ndef f(x):\n    return g(x)", space)
    before = of(space["f"])
    exec("def g(x):\n    return -x", space)
    assert of(space["f"]) != before


def test_a_cell_that_uses_a_file(file):
    text = "def f(x):\n    return own.{}(x)"
    one, other = (of(written(text.format(name), own=file)) for name in ("large", "helper"))
    before = of(written("def f(x):\n    return g(x)", g=file.large))
    assert one != other
    file.K = 5
    assert one != of(written(text.format("large"), own=file)) and before != of(written("def f(x):\n    return g(x)", g=file.large))


def test_a_file_that_uses_this_library_rests_on_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_user.py").write_text("from xai_repro.numerics.algebra import normalize\ndef f(x):\n    return normalize(x)\n")
    importlib.invalidate_caches()
    user, found = importlib.import_module("own_user"), []
    monkeypatch.setattr(fingerprint, "digest", lambda *parts: found.extend(parts) or "")
    of(user.f)
    assert any(isinstance(one, str) and one.startswith("xai_repro.numerics.algebra.normalize ") for one in found)


def test_a_file_that_is_loaded_anew(file):
    before = of(file.helper)
    path = file.__file__
    with open(path, "w") as target:
        target.write(FILE.replace("PAIR[0]", "PAIR[1] + 0"))
    importlib.reload(file)
    assert of(file.helper) != before


def test_things_that_hold_themselves():
    kept = SimpleNamespace(own=None)
    kept.own = kept
    knot = [1]
    knot.append(knot)
    assert of(functools.partial(max, knot)) == of(functools.partial(max, knot)) and of(functools.partial(max, kept))


def test_an_object_says_itself_what_of_it_counts():
    class Remembers:
        def __init__(self, k):
            self.k, self.memory = k, {}

        def __call__(self, x):
            return self.memory.setdefault(x, x + self.k)

        def __getstate__(self):
            return self.k

    one = Remembers(1)
    before = of(one)
    one(3)
    assert of(one) == before != of(Remembers(2))


# -- models ---------------------------------------------------------------------------------------------------------------------


def test_models_count_by_the_code_of_their_own_modules():
    text = "class f(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.k = {}\n    def forward(self, x):\n        return {}x"
    models = [written(text.format(*change), nn=nn)() for change in ((1, ""), (1, ""), (1, "-"), (2, ""))]
    found = [fingerprint.of_model(model) for model in models]
    assert found[0] == found[1] and len(set(found)) == 3
    models[0].train(), models[1].eval()
    assert fingerprint.of_model(models[0]) == fingerprint.of_model(models[1])
    models[1].k = 5
    assert fingerprint.of_model(models[1]) != found[1]
    assert of(functools.partial(max, models[0])) != of(functools.partial(max, models[2]))


def test_samples_count_by_all_that_is_in_them():
    def sample(**change):
        return SimpleNamespace(**{"image": torch.zeros(3, 4, 9), "labels": (1,), "boxes": None, "mask": None, "parts": {}, "id": "a"} | change)

    others = [{}, {"image": torch.zeros(3, 6, 6)}, {"image": torch.zeros(3, 4, 9).half()}, {"labels": (1, 2)}, {"parts": {"a": torch.ones(2)}}, {"id": "b"}]
    found = [fingerprint.of_samples([sample(**other)]) for other in others]
    assert len(set(found)) == len(others) and found == [fingerprint.of_samples([sample(**other)]) for other in others]
    assert fingerprint.of_samples([sample(), sample(id="b")]) != fingerprint.of_samples([sample(id="b"), sample()])
