"""From rows to means with intervals, per cell and against maps that know nothing."""

from functools import lru_cache
from numbers import Real

import numpy as np
import pandas as pd

from xai_repro.errors import short
from xai_repro.registry import method_info, methods, metric_info

BY = ("dataset", "model", "method", "hyper", "metric")
RESAMPLES = 1000
TIME = "milliseconds"  # the papers' unit for the cost of an explanation; ours is the column `seconds`


def higher_is_better(metric):
    """Direction of a metric: True, False, or None where there is none (a count, a spread)."""
    if metric == TIME:
        return False
    try:
        return metric_info(metric).higher_is_better
    except LookupError:
        return None


# -- means and intervals --------------------------------------------------------------------------------------------


def summary(df, by=BY):
    """Mean of every metric with a 95 % bootstrap interval over images.

    df: rows of `evaluate`. by: columns that tell the cells apart.
    Returns one row per cell, in the order of the rows: `by`, mean, low, high, n (images with a value), undefined
    (rows without one), status ("ok", or the most frequent reason where no row has a value). Values are in the
    metric's own unit (fractions, not percent). All rows of an image are drawn together, so that several classes in
    one image are not counted as independent; the percentile interval is seeded and repeatable.
    Raises ValueError for a column that df does not have, or that holds no numbers where numbers are needed.
    """
    by = [by] if isinstance(by, str) else list(by)
    df = checked_rows(df, [*by, "image_id", "value"])
    rows = [dict(zip(by, key)) | _estimate(cell) for key, cell in df.groupby(by, sort=False, dropna=False)]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "undefined", "status"])


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
    rows = df.drop_duplicates(["dataset", "model", "method", "hyper", "image_id", "target"])
    return rows.assign(metric=TIME, value=rows["seconds"] * 1000)


def _estimate(cell):
    defined = cell["value"].notna()
    found = {"mean": np.nan, "low": np.nan, "high": np.nan, "n": 0, "undefined": int((~defined).sum())}
    if not defined.any():
        said = cell["status"].dropna() if "status" in cell else []
        return found | {"status": said.mode().iat[0] if len(said) else "undefined"}
    values = cell[defined]
    low, high = interval(resampled_means(values["value"], values["image_id"]))
    return found | {
        "mean": values["value"].mean(), "low": low, "high": high, "n": values["image_id"].nunique(), "status": "ok",
    }  # fmt: skip


def resampled_means(values, images, resamples=RESAMPLES, seed=0):
    """Means of bootstrap samples of images, [resamples].

    values: one per row. images: name of the image each row belongs to. A sample draws as many images as there are,
    with replacement, and takes all rows of each; the mean is over rows.
    """
    values, (codes, names) = np.asarray(values, float), pd.factorize(np.asarray(images, object))
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    drawn = draws(len(names), resamples, seed)
    # From the first value, so that the mean of a constant is that constant, not that constant up to rounding.
    return values[0] + drawn @ (sums - counts * values[0]) / (drawn @ counts)


def interval(samples, level=0.95):
    """Percentile interval (low, high) of bootstrap samples; NaN for none."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return np.nan, np.nan
    return tuple(np.quantile(samples, [(1 - level) / 2, (1 + level) / 2]).tolist())


@lru_cache(maxsize=8)
def draws(images, resamples, seed):
    """How often each image is in each bootstrap sample, [resamples, images]."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples).astype(float)


def with_time(df):
    """Rows of `evaluate` and, after them, their `timed`."""
    return pd.concat([df, timed(df)], ignore_index=True) if len(df) else df


def slopes(df, x, by=("dataset", "model")):
    """Slope of log(mean value) over log(x), by least squares over the values of x, with a 95 % interval over images.

    df: rows of `evaluate` with a column x of at least two numbers; all have to be positive. Returns `by`, slope, low, high, n
    (images). Raises ValueError otherwise.
    """
    df, found = checked_rows(df, [*by, x, "image_id", "value"]), []
    if len(df) and (df[x].nunique() < 2 or not (_numbers(df[x]) > 0).all() or not (df["value"] > 0).all()):
        raise ValueError(f"a slope over '{x}' needs two values of it, and positive numbers in both columns")
    for key, part in df.groupby(list(by), sort=False):
        wide = part.pivot_table(index="image_id", columns=x, values="value")
        places = np.log(wide.columns.to_numpy(float))
        places -= places.mean()
        weights = np.vstack([np.ones(len(wide)), draws(len(wide), RESAMPLES, 0)]) / len(wide)
        fits = np.log(weights @ wide.to_numpy()) @ places / (places @ places)
        low, high = interval(fits[1:])
        found.append(dict(zip(by, key)) | {"slope": fits[0], "low": low, "high": high, "n": len(wide)})
    return pd.DataFrame(found, columns=[*by, "slope", "low", "high", "n"])


# -- against knowing nothing, and the time it takes ------------------------------------------------------------------


def against_controls(df, controls=("random", "center")):
    """The best method that is no control beside the best of some controls, per data set, model and metric.

    df: rows of `evaluate`. apart: whether the method is better and the two 95 % intervals do not overlap.
    """
    means, found = summary(df).dropna(subset=["mean"]), []
    for (dataset, model, metric), part in means.groupby(["dataset", "model", "metric"], sort=False):
        sign = 1 if higher_is_better(metric) else -1
        explaining, knowing_nothing = part[~part["method"].map(_is_control)], part[part["method"].isin(controls)]
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


def _is_control(name):
    return name in methods("*") and method_info(name).family == "control"


def cost(df, reference="grad-cam"):
    """Milliseconds per map, median over images, and the ratio to a reference method on the same data set and model."""
    df = checked_rows(df, [*BY, "image_id", "target", "seconds", "status"])
    times = timed(df[df["status"] == "ok"]).groupby(["dataset", "model", "method"], sort=False)["value"].median()
    base = times.xs(reference, level="method") if reference in times.index.get_level_values("method") else np.nan
    table = times.rename("milliseconds").to_frame()
    table[f"times {reference}"] = times / base
    return table.reset_index()
