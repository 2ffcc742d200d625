"""The profiles `smoke`, `mini` and `paper`: one file of data, one switch."""

import tomllib
from importlib.resources import files

from xai_repro.errors import unknown


def profile(name):
    """The settings of a profile as a dict. Raises UnknownName with the nearest match."""
    table = tomllib.loads(files("xai_repro.study").joinpath("profiles.toml").read_text())
    if name not in table:
        raise unknown("profile", name, table)
    return {"name": name} | table[name]
