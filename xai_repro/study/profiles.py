"""The profiles `smoke`, `mini`, `photos` and `paper`: one file of data, one switch, checked when it is read."""

import tomllib
from functools import lru_cache
from importlib.resources import files

from xai_repro.errors import like, short, unknown, whole_number
from xai_repro.store.fetch import cache_dir

# What a profile has to say, by example. The models and data sets are names, which are looked up where they are loaded.
_SHAPE = {
    "models": [""], "datasets": [""], "images": {"other": 1}, "networks": 1, "merit": 1, "gallery": 1, "runs": 1, "study": 1, "permutations": [1], "reference": 1, "early": 1,
    "curves": 1, "costly": [""], "sanity": 1, "truth": 1, "fitted": 1, "lacks": {}, "fetched": {}, "hyper": {}, "timing": {"settings": [[]], "masks": 1, "repeats": 1}, "bench": {},
}  # fmt: skip


def profile(name):
    """The settings of a profile as a dict of the caller's own; its models are those it names and, of those that have to be fetched, the ones that are there.

    Raises UnknownName for a profile or a setting that does not exist, with the nearest match; ValueError for a setting that is
    missing or of the wrong kind.
    """
    table = tomllib.loads(_text())
    if not isinstance(name, str) or name not in table:
        raise unknown("profile", name, table)
    settings = table[name]
    _check(f"profile '{name}'", settings, _SHAPE)
    for data, number in settings["images"].items():
        if data != "other" and data not in settings["datasets"]:
            raise unknown(f"data set in images of profile '{name}'", data, ["other", *settings["datasets"]])
        whole_number(f"images of {data} in profile '{name}'", number)
    for asked, hyper in settings["hyper"].items():
        like(f"hyper of {asked} in profile '{name}'", hyper, {})
    for table in ("lacks", "fetched"):
        for key, text in settings[table].items():
            like(f"{key} in {table} of profile '{name}'", text, "")
    for setting in settings["timing"]["settings"]:
        if len(setting) != 2 or not isinstance(setting[0], str):
            raise ValueError(f"profile '{name}' times {short(repr(setting))}; a model and the side of its images are needed")
        whole_number(f"side of the images of {setting[0]} in profile '{name}'", setting[1])
    there = [model for model, file in settings["fetched"].items() if (cache_dir() / file).exists()]
    return {"name": name} | settings | {"models": settings["models"] + there}


@lru_cache
def _text():
    return files("xai_repro.study").joinpath("profiles.toml").read_text(encoding="utf-8")


def _check(place, given, shape):
    """Refuse a table that has other names than a shape, or other kinds of values."""
    for name in given:
        if name not in shape and "other" not in shape:  # those of data sets may be any
            raise unknown(f"setting of {place}", name, shape)
    for name, example in shape.items():
        if name not in given:
            raise ValueError(f"{place} does not say '{name}'")
        value = like(f"{name} of {place}", given[name], example)
        if isinstance(example, dict) and example:
            _check(f"{name} of {place}", value, example)
        elif isinstance(example, list):
            for one in value:
                like(f"{name} of {place}", one, example[0])
        elif isinstance(example, int):
            whole_number(f"{name} of {place}", value)


def check_names(settings):
    """Refuse a profile whose hyper-parameters are of no method or metric, or not of theirs, or that leaves out no method.

    Apart from `profile`, since the names are known only once the library is loaded.
    """
    from xai_repro.registry import check_hyper, method_info, methods, metric_info, metrics
    for name, hyper in settings.get("hyper", {}).items():
        if name not in [*methods(), *metrics()]:
            raise unknown(f"method or metric in hyper of profile '{settings.get('name')}'", name, [*methods(), *metrics()])
        check_hyper(method_info(name) if name in methods() else metric_info(name), hyper)
    for name in settings.get("costly", []):
        method_info(name)
