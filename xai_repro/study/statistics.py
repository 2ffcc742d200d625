"""From rows to means with intervals, per cell and against maps that know nothing."""

from functools import lru_cache
from numbers import Real

import numpy as np
import pandas as pd

from xai_repro.errors import short
from xai_repro.registry import method_info, methods, metric_info, metrics
from xai_repro.study.resampling import how_many, interval, mean_of, RESAMPLES, resampled, resampled_means, units

__all__ = ["interval", "RESAMPLES", "resampled_means"]  # asked for here, too

BY = ("dataset", "model", "method", "hyper", "metric")
EMPTY = 0.1  # from this share of empty maps on, a mean is that of the images that were easy enough to get a map
ASYMPTOTIC = 10  # one permutation's error is bounded and no power law yet
NO_SHARES = {"cosine-to", "cosine-to-std", "part-correlation", "completeness", "outside-inside-ratio", "sanity-cascading", "sanity-independent", "milliseconds"}  # not shown in percent
TIME = "milliseconds"  # the papers' unit for the cost of an explanation; ours is the column `seconds`


def higher_is_better(metric):
    """Direction of a metric: True, False, or None where there is none (a count, a spread)."""
    if metric == TIME:
        return False
    return metric_info(metric).higher_is_better if metric in metrics() else None


# -- means and intervals --------------------------------------------------------------------------------------------


def summary(df, by=BY):
    """Mean of every metric with a 95 % bootstrap interval over networks and images.

    df: rows of `evaluate`. by: columns that tell the cells apart.
    Returns one row per cell, in the order of the rows: `by`, mean, low, high, n (images with a value), networks (runs: the
    networks with their draws), empty (share of maps that are zero everywhere; NaN where the rows do not say), negative (share of maps with a negative value), undefined
    (rows without a value), status ("ok", or the most frequent reason where no row has a value). Values are in the
    metric's own unit (fractions, not percent). All rows of an image are drawn together, so that several classes in
    one image are not counted as independent; how runs and images are drawn says `resampling.resampled`. Seeded and repeatable.
    Raises ValueError for a column that df does not have, or that holds no numbers where numbers are needed.
    """
    by = [by] if isinstance(by, str) else list(by)
    df = with_run(checked_rows(df, [*by, "image_id", "value"]))
    rows = [dict(zip(by, key)) | _estimate(cell) for key, cell in df.groupby(by, sort=False, dropna=False)]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "networks", "empty", "negative", "undefined", "status"])


def with_run(df):
    """The rows with a column `run`: 0, one network, where there is none or it does not say."""
    return df.assign(run=df["run"].fillna(0) if "run" in df else 0)


def checked_rows(df, columns, what="rows are those of `evaluate`"):
    """A table that has these columns, its numbers as float64 (None, NA: NaN).

    what: for the error, what the table should be. Raises ValueError for something else, or a column that is not there or holds no
    numbers where they are needed.
    """
    if not isinstance(df, pd.DataFrame):
        raise ValueError(f"a DataFrame is needed, {what}; got {short(repr(df))} ({type(df).__name__})")
    for column in columns:
        if column not in df.columns:
            raise ValueError(f"no column '{column}': {what}; here are {', '.join(map(str, df.columns)) or 'none'}")
    return df.assign(**{name: _numbers(df[name]) for name in ("value", "seconds") if name in columns and df[name].dtype != float})


def _numbers(column):
    odd = [value for value in column if not (isinstance(value, Real) or pd.isna(value))]
    if odd:
        raise ValueError(f"column '{column.name}' holds {short(repr(odd[0]))} ({type(odd[0]).__name__}); numbers are needed")
    return pd.Series([np.nan if pd.isna(value) else float(value) for value in column], column.index, float)


def timed(df):
    """The seconds of rows of `evaluate` as rows of the metric "milliseconds", one per image, class and method."""
    df = checked_rows(df, [*BY, "image_id", "target", "seconds"])
    rows = df.drop_duplicates(["dataset", "model", "method", "hyper", "image_id", "target", *(["run"] if "run" in df else [])])
    return rows.assign(metric=TIME, value=rows["seconds"] * 1000)


def _estimate(cell):
    values = cell["value"].to_numpy()
    defined = ~np.isnan(values)
    found = {"mean": np.nan, "low": np.nan, "high": np.nan, "n": 0, "networks": 0, "empty": share_of(cell, "empty"), "negative": share_of(cell, "negative"), "undefined": int((~defined).sum())}
    if not defined.any():
        said = cell["status"].dropna() if "status" in cell else []
        return found | {"status": said.mode().iat[0] if len(said) else "undefined"}
    values, images, runs = values[defined], cell["image_id"].to_numpy(object)[defined], cell["run"].to_numpy(object)[defined]
    low, high = _interval(tuple(values.tolist()), tuple(images), tuple(runs))
    return found | {"mean": values.mean(), "low": low, "high": high, "n": len(set(images)), "networks": how_many(runs), "status": "ok"}


@lru_cache(maxsize=2**14)  # a page asks for the same cells in one table after the other
def _interval(values, images, runs):
    samples = mean_of(values, images, runs)[1]
    return interval(samples.clip(min(values), max(values)))  # stretched, a mean of shares might leave [0, 1]


def share_of(cell, fact):
    """Share of the rows of which a fact is true ("empty": the map is zero everywhere), of those that say so; NaN for none."""
    said = cell[fact].dropna() if fact in cell else []
    return float(said.astype(float).mean()) if len(said) else np.nan


def with_time(df):
    """Rows of `evaluate` and, after them, their `timed`."""
    return pd.concat([df, timed(df)], ignore_index=True) if len(df) else df


def slopes(df, x, by=("dataset", "model")):
    """Slope of log(mean value) over log(x), by least squares over the values of x from 10 on, with a 95 % interval over runs and images.

    df: rows of `evaluate` with a column x of at least two numbers from 10 on; all have to be positive. The slope of an error is that of
    its limit, 1 / x, where the error is small: one minus a cosine is at most 1, so the first point of SHAP-CAM, 1 permutation, lies under
    the line. A mean is over rows; an image that has no value at some x counts at the others.
    Returns `by`, slope, low, high, n (images), networks (runs, each with draws of its own). Raises ValueError otherwise.
    """
    df, found = with_run(checked_rows(df, [*by, x, "image_id", "value"])), []
    if len(df) and (not (_numbers(df[x]) > 0).all() or not (df["value"].dropna() > 0).all() or _numbers(df[x])[_numbers(df[x]) >= ASYMPTOTIC].nunique() < 2):
        raise ValueError(f"a slope over '{x}' needs two values of it from {ASYMPTOTIC} on, and positive numbers in both columns")
    for key, part in df.groupby(list(by), sort=False):
        part = part[(_numbers(part[x]) >= ASYMPTOTIC) & part["value"].notna()]
        codes, design = units(part["image_id"], part["run"])
        wide = part.assign(unit=codes).pivot_table(index="unit", columns=x, values="value", aggfunc=["sum", "count"], fill_value=0, observed=True)
        places = np.log(wide["sum"].columns.to_numpy(float))
        places -= places.mean()
        sums, counts = (wide[name].to_numpy(float) for name in ("sum", "count"))

        def fit(weights, sums=sums, counts=counts, places=places):
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.log((weights @ sums) / (weights @ counts)) @ places / (places @ places)

        slope, samples = resampled(design, fit)
        low, high = interval(samples)
        found.append(dict(zip(by, key)) | {"slope": slope, "low": low, "high": high, "n": part["image_id"].nunique(), "networks": how_many(part["run"])})
    return pd.DataFrame(found, columns=[*by, "slope", "low", "high", "n", "networks"])


def kendall(a, b):
    """Kendall's tau-b of two orders of M things, row by row: a [M] or [R, M], b [R, M] -> [R]; NaN where one of the two is constant."""
    first, second = np.triu_indices(np.shape(a)[-1], 1)
    a, b = np.sign(a[..., first] - a[..., second]), np.sign(b[:, first] - b[:, second])
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(-1) * (b**2).sum(1))


# -- against knowing nothing, and the time it takes ------------------------------------------------------------------


def against_controls(df, controls=("random", "center")):
    """The best method that is no control beside the best of some controls, per data set, model and metric.

    df: rows of `evaluate`. apart: whether the method is better and the two 95 % intervals do not overlap. A method with a tenth of
    its maps empty or more is not the best.
    """
    means, found = summary(df).dropna(subset=["mean"]), []
    for (dataset, model, metric), part in means.groupby(["dataset", "model", "metric"], sort=False):
        sign = 1 if higher_is_better(metric) else -1
        explaining, knowing_nothing = part[~part["method"].map(is_control) & ~(part["empty"] >= EMPTY)], part[part["method"].isin(controls)]
        if explaining.empty or knowing_nothing.empty:
            continue
        best, rival = (rows.loc[(sign * rows["mean"]).idxmax()] for rows in (explaining, knowing_nothing))
        apart = best["low"] > rival["high"] if sign > 0 else best["high"] < rival["low"]
        found.append(
            {"dataset": dataset, "model": model, "metric": metric, "best": best["method"], "mean": best["mean"]}
            | {"low": best["low"], "high": best["high"], "control": rival["method"], "control mean": rival["mean"]}
            | {"control low": rival["low"], "control high": rival["high"], "apart": "yes" if apart else "no"}
        )
    return pd.DataFrame(found, columns=_AGAINST)


_AGAINST = [
    "dataset", "model", "metric", "best", "mean", "low", "high", "control", "control mean", "control low", "control high", "apart",
]  # fmt: skip


def is_control(name):
    """Whether this is the name of a control, which looks at no network."""
    return name in methods("*") and method_info(name).family == "control"


def cost(df, reference="grad-cam"):
    """Milliseconds per map, median over images, and the ratio to a reference method on the same data set and model."""
    df = checked_rows(df, [*BY, "image_id", "target", "seconds", "status"])
    times = timed(df[df["status"] == "ok"]).groupby(["dataset", "model", "method"], sort=False)["value"].median()
    base = times.xs(reference, level="method") if reference in times.index.get_level_values("method") else np.nan
    table = times.rename("milliseconds").to_frame()
    table[f"times {reference}"] = times / base
    return table.reset_index()
