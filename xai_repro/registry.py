"""Where every method and metric is known by name: `@method` and `@metric` write here, everything else reads."""

import inspect
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Callable

from xai_repro.errors import unknown


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

    @property
    def summary(self):
        """The first paragraph of the docstring: one sentence."""
        return inspect.cleandoc(self.formula).split("\n\n")[0].replace("\n", " ")

    @property
    def definition(self):
        """The second paragraph of the docstring: the map in index notation and its place in the paper."""
        return inspect.cleandoc(self.formula).split("\n\n")[1]


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric: its direction, what maps and which truth it takes, its hyper-parameters."""

    name: str
    function: Callable  # (model, x, y, maps, truth, **hyper) -> [B]
    higher_is_better: bool
    cite: str
    maps: str  # "unit": normalised to [0,1]; "raw": as the method gives them
    truth: str | None  # "box", "mask" or None
    hyper: dict
    formula: str

    summary = MethodInfo.summary
    definition = MethodInfo.definition


_METHODS: dict[str, MethodInfo] = {}
_METRICS: dict[str, MetricInfo] = {}


def hyper_of(function):
    """Names and defaults of the keyword-only parameters: a method's hyper-parameters are these."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _add(table, info):
    if info.name in table:
        raise ValueError(f"'{info.name}' is registered twice: {table[info.name].function} and {info.function}")
    if not info.formula:
        raise ValueError(f"'{info.name}' has no docstring: the formula and its source belong there")
    table[info.name] = info


def method(name, *, family, cite, needs="", signed=False, lift=None):
    """Register a function under a name as a method; the decorated function is returned as it is.

    lift: turns a shorter form into the full signature `(model, x, y, *, ...) -> map`; see `xai_repro.methods.lifts`.
    Without one the function has the full signature already. Raises ValueError for a name used twice or a
    missing docstring.
    """

    def register(function):
        whole, coefficients = lift(function) if lift else (function, None)
        _add(_METHODS, MethodInfo(name, whole, family, cite, needs, signed, hyper_of(whole), function.__doc__, coefficients))
        return function

    return register


def metric(name, *, higher_is_better, cite, maps="unit", truth=None):
    """Register a function `(model, x, y, maps, truth, *, ...) -> [B]` under a name as a metric."""

    def register(function):
        _add(_METRICS, MetricInfo(name, function, higher_is_better, cite, maps, truth, hyper_of(function), function.__doc__))
        return function

    return register


def _complete(table):
    """The table with everything in the library's own folders registered."""
    import_module("xai_repro.methods" if table is _METHODS else "xai_repro.metrics")
    return table


def methods(pattern="*"):
    """Names of the registered methods that match a shell pattern, in the order of their registration."""
    return [name for name in _complete(_METHODS) if fnmatchcase(name, pattern)]


def metrics(pattern="*"):
    """Names of the registered metrics that match a shell pattern, in the order of their registration."""
    return [name for name in _complete(_METRICS) if fnmatchcase(name, pattern)]


def method_info(name):
    """Everything known of one method. Raises UnknownName with the nearest match."""
    if name not in _complete(_METHODS):
        raise unknown("method", name, _METHODS)
    return _METHODS[name]


def metric_info(name):
    """Everything known of one metric. Raises UnknownName with the nearest match."""
    if name not in _complete(_METRICS):
        raise unknown("metric", name, _METRICS)
    return _METRICS[name]


def check_hyper(info, hyper):
    """Refuse hyper-parameters that the method or metric does not have."""
    for name in hyper:
        if name not in info.hyper:
            raise unknown(f"hyper-parameter of {info.name}", name, info.hyper)
