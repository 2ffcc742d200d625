"""Any table in small ones: numbers with the same digits down a column, an interval with its number, and what does not change said once."""

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from xai_repro.study.markup import Small
from xai_repro.study.notes import counted, INTERVALS, named, standing_in
from xai_repro.study.statistics import NO_SHARES

LONG = 8  # rows up to which several data sets and networks share a table


def smalls_of_any(table):
    """A table as small ones and a note: one for each data set and network where there are several and many rows."""
    frame = table.reset_index() if table.index.name is not None else table
    frame = frame.set_axis(map(str, frame.columns), axis=1).loc[:, lambda one: one.notna().any() | (len(one) == 0)]
    said = []
    if "stands_in" in frame:
        said, frame = [standing_in(frame["stands_in"])], frame.drop(columns="stands_in")
    if {"group", "metric"} <= set(frame) and all(map(named, frame["group"], frame["metric"])):
        frame = frame.drop(columns="metric")
    texts = _texts(frame)
    same = [name for name in ("n", "networks") if name in frame and frame[name].nunique() == 1 and texts.shape[1] > 3]
    said += [counted(frame[same])] + [INTERVALS] * any(_interval_of(name, list(frame)) for name in frame)
    texts = texts.drop(columns=same)
    where = [name for name in ("paper", "dataset", "model") if name in texts and texts.shape[1] > 4]
    parts = [((), texts)]
    if where and (frame[where].drop_duplicates().shape[0] == 1 or len(frame) > max(LONG, frame[where].drop_duplicates().shape[0])):
        parts = texts.groupby(where, sort=False)
        texts = texts.drop(columns=where)
    return [_small(", ".join(place), part[texts.columns]) for place, part in parts], " ".join(filter(None, said))


def _small(title, texts):
    corner, *columns = map(_heading, texts.columns)
    return Small(title, corner, [(column,) for column in columns], [(name, row) for name, *row in texts.itertuples(index=False, name=None)])


def _heading(name):
    return name.replace("_", " ")


def _texts(frame):
    """The table as texts; a number that is followed by its `low` and `high` takes them in, and means of shares are in percent."""
    names, found = list(frame), {}
    inside = {name for one in names for name in _interval_of(one, names)}
    shares = "metric" in frame and not frame["metric"].isin(NO_SHARES).any()
    for name in names:
        if name in inside:
            continue
        bounds = _interval_of(name, names)
        numbers = frame[[name, *bounds]]
        percent = shares and bool(bounds) and name.endswith("mean")
        texts = _column(numbers * 100, ".1f") if percent else _column(numbers)
        found[f"{name} (%)" if percent else name] = [_with_bounds(*row) for row in texts]
    return pd.DataFrame(found, index=frame.index)


def _interval_of(name, names):
    """The two columns after this one, if they are its `low` and `high`; else none."""
    low, high = [*names, "", ""][names.index(name) + 1 :][:2]
    start = low.removesuffix("low")
    return (low, high) if low != start and high == f"{start}high" and start.strip() in ("", name, name.removesuffix("mean").strip()) else ()


def _with_bounds(text, *bounds):
    return f"{text} ({' to '.join(bounds)})" if all(bounds) and bounds and text else text


def _column(frame, form=""):
    """Rows of texts, of all columns of a frame in one format: by default its largest number shows three digits and its smallest two, if two decimals are enough."""
    if not all(is_numeric_dtype(one) and not is_bool_dtype(one) for one in frame.dtypes):
        return [tuple(map(_word, row)) for row in frame.itertuples(index=False, name=None)]
    size = np.abs(frame.to_numpy(float))
    size = size[np.isfinite(size) & (size > 0)]
    digits = 0
    if (size % 1).any():
        digits = int(max(0, 3 - np.ceil(np.log10(size.max())), min(2, np.ceil(1 - np.log10(size.min())))))
    vanishes = len(size) and size.min() < 0.5 * 10.0 ** -min(digits, 3)
    form = form or (".3g" if vanishes else f".{min(digits, 3)}f")
    return [tuple("" if pd.isna(value) else f"{value:{form if abs(value) < 1000 or form != '.3g' else '.0f'}}" for value in row) for row in frame.to_numpy(float)]


def _word(value):
    """A value that is not one of a column of numbers, in words."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None or value is pd.NA else str(value)
