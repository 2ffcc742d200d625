"""Every metric. A file dropped here registers its metrics by being there."""

from importlib import import_module
from pkgutil import iter_modules

from xai_repro.registry import callable_package, metrics

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")

callable_package(__name__, metrics)
