"""xai-repro: explanation methods for image classifiers, their metrics, and the papers that compare them, re-run."""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

# The public names and where they live. They are imported when first used, so that the command line starts at once.
_PUBLIC = {
    "method_info": "registry",
    "metric_info": "registry",
    "method": "registry",
    "metric": "registry",
    "explain": "explain",
    "explain_all": "explain",
    "coefficients": "explain",
    "normalize": "numerics.algebra",
    "score": "score",
    "load_model": "models",
    "model_names": "models",
    "trainings": "models",
    "transform": "models",
    "load_data": "data",
    "load_pair": "study.asked",
    "data_names": "data",
    "Sample": "data",
    "View": "data",
    "denormalize": "data",
    "evaluate": "study.evaluate",
    "fit_clam": "study.fitting",
    "build_index": "study.examples",
    "examples": "study.examples",
    "published": "published",
    "profile": "study.profiles",
    "write_rows": "store.files",
}
_MODULES = {name: f"study.{name}" for name in ("tables", "claims", "plots", "said", "timing", "proposals")}
_MODULES |= {"methods": "methods", "metrics": "metrics"}  # packages that are called for the names in them
__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name):
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`xr.explain` and its like stay the public functions when the file of the same name is imported."""

    def __setattr__(self, name, value):
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
