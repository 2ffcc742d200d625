"""Where every method and metric is known by name: `@method` and `@metric` write here, everything else reads."""

import inspect
import re
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Callable

from xai_repro.errors import like, short, unknown, whole_number


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method: its family, its citation, what it needs, its hyper-parameters with defaults."""

    name: str
    function: Callable  # (model, x, y, **hyper) -> map [B,H,W]
    family: str  # "cam", "gradient", "control", ...
    cite: str  # key of book/references.bib
    needs: str  # what the model must have, in words ("" if nothing)
    signed: bool  # whether negative values of the map mean evidence against the class
    hyper: dict  # name -> default
    formula: str  # the docstring of the function that holds the formula
    coefficients: Callable | None = None  # (model, x, y, **hyper) -> alpha [B,K], where the method is sum_k alpha_k A_k
    files: Callable | None = None  # (hyper-parameters that it names) -> digests of the files that maps rest on

    @property
    def summary(self):
        """The first paragraph of the docstring: one sentence."""
        return self._paragraph(0).replace("\n", " ")

    @property
    def definition(self):
        """The second paragraph of the docstring: the map in index notation and its place in the paper."""
        return self._paragraph(1)

    def _paragraph(self, number):
        parts = inspect.cleandoc(self.formula or "").split("\n\n")
        return parts[number] if number < len(parts) else ""


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric: its direction, what maps and which truth it takes, its hyper-parameters."""

    name: str
    function: Callable  # (model, x, y, maps, truth, **hyper) -> [B]
    higher_is_better: bool
    cite: str
    maps: str  # "unit": normalised to [0,1]; "raw": as the method gives them; "coefficients": no maps, but what they are made of
    truth: str | None  # "box", "mask", "parts" (what each part of the object is worth, where it is seen) or None
    hyper: dict
    formula: str

    summary, definition, _paragraph = MethodInfo.summary, MethodInfo.definition, MethodInfo._paragraph

    @property
    def misleads(self):
        """Where the metric misleads: the paragraph of the docstring that begins with *Misleads*; "" where it has none."""
        start = "*Misleads*: "
        told = (part for part in inspect.cleandoc(self.formula or "").split("\n\n") if part.startswith(start))
        return next(told, "").removeprefix(start).replace("\n", " ")


MAPS, TRUTHS = ("unit", "raw", "coefficients"), ("box", "mask", "near", "parts")  # what a metric may take
_ANY = ("layer", "layers", "layout", "chunk")  # of several kinds: checked where they are used
_METHODS: dict[str, MethodInfo] = {}
_METRICS: dict[str, MetricInfo] = {}


def hyper_of(function):
    """Names and defaults of the keyword-only parameters: a method's hyper-parameters are these."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _check(name, function, takes, **facts):
    """Refuse what is no function of these arguments, and facts that are not of the kind of their examples: {fact: (value, example)}."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a name is a text; got {short(name)}")
    wanted = f"a function ({', '.join(takes)}, *, ...) is needed"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ValueError(f"'{name}' is {short(repr(function))}; {wanted}") from None
    try:
        signature.bind(*takes, **dict.fromkeys(hyper_of(function)))
    except TypeError:
        raise ValueError(f"'{name}' takes {signature}; {wanted}") from None
    for fact, (value, example) in facts.items():
        like(f"{fact} of '{name}'", value, example)


def _add(table, info):
    if info.name in table and _place(table[info.name].function) != _place(info.function):  # a cell that is run again replaces its own
        raise ValueError(f"'{info.name}' is registered twice: {table[info.name].function} and {info.function}")
    if not info.formula and sys.flags.optimize < 2:  # which strips docstrings
        raise ValueError(f"'{info.name}' has no docstring: the formula and its source belong there")
    if missing := [name for name, default in info.hyper.items() if default is inspect.Parameter.empty]:
        raise ValueError(f"'{info.name}' has no default for {', '.join(missing)}: every hyper-parameter needs one")
    table[info.name] = info


def _place(function):
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def method(name, *, family, cite, needs="", signed=False, lift=None, files=None):
    """Register a function under a name as a method; the decorated function is returned as it is.

    lift: turns a shorter form into the full signature `(model, x, y, *, ...) -> map`; see `xai_repro.methods.lifts`. files: of a method that reads
    files, a function from the hyper-parameters that it names to the digests of what it would read: kept results rest on them.
    Without one the function has the full signature already. Raises ValueError for a name used twice, a missing
    docstring, a function that takes other arguments, and facts of a wrong kind.
    """

    def register(function):
        if lift is not None and not callable(lift):
            raise ValueError(f"lift of '{name}' is {short(repr(lift))}; one of xai_repro.methods.lifts is needed, or None")
        whole, coefficients = (function, None) if lift is None else lift(function)
        _check(name, whole, ("model", "x", "y"), family=(family, "cam"), cite=(cite, "petsiuk2018rise"), needs=(needs, "ReLUs"), signed=(signed, False))
        _add(_METHODS, MethodInfo(name, whole, family, cite, needs, signed, hyper_of(whole), function.__doc__, coefficients, files))
        return function

    return register


def metric(name, *, higher_is_better, cite, maps="unit", truth=None):
    """Register a function `(model, x, y, maps, truth, *, ...) -> [B]` under a name as a metric.

    maps: what it takes, "unit" (maps in [0,1]), "raw" (as the method gives them) or "coefficients"; truth: "box", "mask", "near" (within 15 pixels of the
    photograph), "parts" or None.
    Raises the errors of `method`, and UnknownName for other maps or truth.
    """

    def register(function):
        takes = ("model", "x", "y", "maps", "truth")
        _check(name, function, takes, higher_is_better=(higher_is_better, True), cite=(cite, "petsiuk2018rise"))
        for fact, value, possible in (("maps", maps, MAPS), ("truth", truth, (None, *TRUTHS))):
            if value not in possible:
                raise unknown(f"{fact} of '{name}'", value, possible)
        _add(_METRICS, MetricInfo(name, function, higher_is_better, cite, maps, truth, hyper_of(function), function.__doc__))
        return function

    return register


def _complete(table):
    """The table with everything in the library's own folders registered."""
    import_module("xai_repro.methods" if table is _METHODS else "xai_repro.metrics")
    return table


def expected(kind):
    """Names of what is registered as "method" or "metric" and of what the library's own files will register, read from their text: known before torch is loaded."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(Path(__file__).with_name(f"{kind}s").glob("*.py")))
    written = [name for text in texts for name in re.findall(rf'^@{kind}\("([^"]+)"', text, re.MULTILINE)]
    return list(dict.fromkeys([*written, *(_METHODS if kind == "method" else _METRICS)]))


def methods(pattern="*"):
    """Names of the registered methods that match a shell pattern, in the order of their registration."""
    return _matching(_METHODS, pattern)


def metrics(pattern="*"):
    """Names of the registered metrics that match a shell pattern, in the order of their registration."""
    return _matching(_METRICS, pattern)


def method_info(name):
    """Everything known of one method. Raises UnknownName with the nearest match."""
    return _known(_METHODS, "method", name)


def metric_info(name):
    """Everything known of one metric. Raises UnknownName with the nearest match."""
    return _known(_METRICS, "metric", name)


def check_hyper(info, hyper):
    """The hyper-parameters, each one that the method or metric has and of the kind of its default.

    Raises UnknownName for a name, ValueError for a value.
    """
    for name in hyper:
        if name not in info.hyper:
            raise unknown(f"hyper-parameter of {info.name}", name, info.hyper)
    checked = {name: value if name in _ANY else like(f"{name} of {info.name}", value, info.hyper[name]) for name, value in hyper.items()}
    if "seed" in checked:
        whole_number(f"seed of {info.name}", checked["seed"], 0, 2**32 - 1)  # what every generator takes
    return checked


def callable_package(name, names):
    """Make a package the list of what its files register, too: `xr.methods()` are the names, `xr.methods.cam` is a file."""
    sys.modules[name].__class__ = type("Package", (ModuleType,), {"__call__": staticmethod(names), "__doc__": names.__doc__})


def _matching(table, pattern):
    if not isinstance(pattern, str):
        raise ValueError(f"a pattern of names is a text, such as '*cam*'; got {short(pattern)}")
    return [name for name in _complete(table) if fnmatchcase(name, pattern)]


def _known(table, kind, name):
    if not isinstance(name, str) or name not in _complete(table):
        raise unknown(kind, name, _complete(table))
    return table[name]
