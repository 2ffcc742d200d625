"""What the papers assert, as data (published/claims), and whether it holds in rows of `evaluate`.

A record of published/claims/PAPER.toml:

    id       short and unique            place    where the paper says so      says    the claim, in own words
    test     a function of this file; the other keys are its arguments, in this library's names or the paper's headings

The table `names` lists what is neither: labels that a notebook gives, and metrics and models still to come. Every other name that
nobody knows is an error.

method, than, metric, dataset and model may be lists: the claim then stands for every combination. A method is a name with its
default settings, a table {name, settings}, or the label that `evaluate` was given. Thresholds are the papers' own figures, or
stated as ours in `says`. None is chosen by what comes out here.
"""

import copy
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xai_repro.errors import unknown
from xai_repro.published import papers
from xai_repro.registry import method_info, methods
from xai_repro.store.files import writable
from xai_repro.study import records
from xai_repro.study.statistics import BY, checked_rows, higher_is_better, interval, resampled_means, with_time
from xai_repro.study.tables import present, save

COLUMNS = ["id", "paper", "place", "says", "outcome", "estimate", "low", "high", "n", "detail", "stands_in"]
OUTCOMES = ("holds", "undecided", "fails", "not run yet")
_ROW = [*BY, "image_id", "target"]  # what one row is about
_SAME = 1e-6  # what floating point makes of equal numbers


class NotRun(LookupError):
    """There are no rows to test a claim on; the message says which are missing."""


def all(paper=None):  # noqa: A001 - reads as claims.all()
    """The claims as a list of records: id, paper, place, says, test, and the arguments of the test.

    Raises UnknownName for a paper that does not exist, and for whatever else the files name wrongly.
    """
    if paper is not None and paper not in papers():
        raise unknown("paper", paper, papers())
    return [copy.deepcopy(record) for record in records.of_all(TESTS) if paper in (None, record["paper"])]


def check(df, paper=None):
    """Test the claims, of one paper or of all, on rows of `evaluate`: one row per claim.

    Columns: id, paper, place (where the paper says so), says, outcome, estimate with its 95 % interval low to high,
    n (images), detail, stands_in (what was run in place of the paper's data and models).
    outcome: "holds" or "fails" where the interval leaves no doubt, "undecided" where it does, "not run yet" where rows
    are missing (detail says which). The interval is that of the tested quantity, by bootstrap over images, paired
    where two methods are compared; differences count in favour of the claim. A claim about several methods, metrics,
    data sets or models holds if every comparison does and fails if one does; the numbers are of the weakest one. The
    levels are not corrected for the number of comparisons, so of many equal ones some will seem to fail: detail
    counts them. Of rows that df holds twice the first count, which is printed.
    """
    df = _once(checked_rows(df, [*_ROW, "value", "seconds", "status"]))
    cells = {key: cell for key, cell in with_time(df).groupby(list(BY), sort=False)} if len(df) else {}
    return pd.DataFrame([_checked(cells, record) for record in all(paper)], columns=COLUMNS)


def _once(df):
    """The rows without those that are there a second time, as in two files of the same cells; what was left out is said."""
    again = df.duplicated(_ROW)
    if again.any():
        others = int(again.sum() - (df.duplicated([*_ROW, "value"]) & again).sum())
        but = f", though {others} have another value" if others else ""
        print(f"{again.sum()} of {len(df)} rows are there twice (the same {', '.join(_ROW)}): the first of each counts{but}")
    return df[~again]


def _checked(cells, record):
    results, missing, stands_in = {}, [], {}
    for arguments in records.comparisons(record):
        try:
            for key in ("dataset", "model", "than_model"):
                if key in arguments:
                    asked, arguments[key] = arguments[key], _present(cells, key, arguments)
                    stands_in |= {f"{arguments[key]} for {asked}": None} if arguments[key] != asked else {}
            # Where two of a paper's data sets or models have the same stand-in, a comparison counts once.
            name = json.dumps(arguments, sort_keys=True)
            results[name] = results.get(name) or TESTS[record["test"]](cells, **arguments)
        except NotRun as reason:
            missing.append(str(reason))
    results = [result for found in results.values() for result in found]
    outcomes = [result["outcome"] for result in results]
    worst = {"fails": "fails" in outcomes, "not run yet": missing, "undecided": "undecided" in outcomes, "holds": True}
    outcome = next(name for name, found in worst.items() if found)
    facts = {key: record[key] for key in COLUMNS if key in record} | {"outcome": outcome}
    if outcome == "not run yet":
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return facts | {"n": 0, "detail": missing[0] + more, "stands_in": ""}
    weakest = min((result for result in results if result["outcome"] == outcome), key=lambda result: result["margin"])
    detail = weakest["detail"]
    if len(results) > 1:
        detail += f"; {outcomes.count('holds')} of {len(results)} comparisons hold"
    if missing:
        detail += f"; not run yet: {len(missing)} more"
    numbers = {key: weakest[key] for key in ("estimate", "low", "high", "n")}
    return facts | numbers | {"detail": detail, "stands_in": ", ".join(stands_in)}


def _present(cells, key, arguments):
    """What was run of a paper's data set or model, in the metric of the test. Raises NotRun without any."""
    place = BY.index(key.removeprefix("than_"))
    used = present({cell[place] for cell in cells if cell[4] == arguments["metric"]}, BY[place], arguments[key])
    if used is None:
        raise NotRun(f"no rows of {arguments['metric']} on {arguments[key]}")
    return used


# -- the tests: (cells, arguments of the record) -> list of results ---------------------------------------------------


def better(cells, method, than, metric, dataset, model, than_model=None):
    """A method is better than another in a metric, in the metric's direction."""
    pair = _pair(cells, method, than, metric, dataset, model, than_model)
    estimate, low, high = numbers = _interval(pair.gain, pair.images)
    if max(abs(low), abs(high)) < _SAME:
        return [pair.result("fails", numbers, 0.0, "no difference: ")]
    return [pair.result(_decide(low > 0, high < 0), numbers, estimate)]


def different(cells, method, than, metric, dataset, model):
    """Two methods do not give the same values of a metric."""
    pair = _pair(cells, method, than, metric, dataset, model)
    estimate, low, high = numbers = _interval(pair.gain, pair.images)
    same = np.abs(pair.gain).max() < _SAME
    return [pair.result(_decide(low > 0 or high < 0, same), numbers, abs(estimate), "no difference: " if same else "")]


def equal_within(cells, method, than, metric, dataset, model, tolerance):
    """The means of two methods in a metric differ by at most a tolerance."""
    pair = _pair(cells, method, than, metric, dataset, model)
    estimate, low, high = numbers = _interval(pair.gain, pair.images)
    inside, outside = -tolerance <= low and high <= tolerance, low > tolerance or high < -tolerance
    return [pair.result(_decide(inside, outside), numbers, tolerance - abs(estimate), f"within {tolerance:g}: ")]


def at_least(cells, method, metric, value, dataset, model):
    """The mean of a method in a metric is at least a value."""
    one = _one(cells, method, metric, dataset, model)
    estimate, low, high = numbers = _interval(one.values, one.images)
    return [one.result(_decide(low >= value, high < value), numbers, estimate - value, f"at least {value:g}: ")]


def at_most(cells, method, metric, value, dataset, model):
    """The mean of a method in a metric is at most a value."""
    one = _one(cells, method, metric, dataset, model)
    estimate, low, high = numbers = _interval(one.values, one.images)
    return [one.result(_decide(high <= value, low > value), numbers, value - estimate, f"at most {value:g}: ")]


def ratio_at_least(cells, method, than, metric, value, dataset, model):
    """The mean of a method in a metric is at least so many times that of another."""
    pair = _pair(cells, method, than, metric, dataset, model)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = interval(resampled_means(pair.values, pair.images) / resampled_means(pair.others, pair.images))
        estimate = pair.values.mean() / pair.others.mean()
    numbers = estimate, low, high
    return [pair.result(_decide(low >= value, high < value), numbers, estimate - value, f"ratio at least {value:g}: ")]


def rising(cells, methods, metric, dataset, model):
    """A metric's mean rises from each method of a list to the next."""
    return _steps(cells, methods, metric, dataset, model, 1)


def falling(cells, methods, metric, dataset, model):
    """A metric's mean falls from each method of a list to the next."""
    return _steps(cells, methods, metric, dataset, model, -1)


TESTS = {test.__name__: test for test in (better, different, equal_within, at_least, at_most, ratio_at_least, rising, falling)}


def _steps(cells, methods, metric, dataset, model, sign):
    results = []
    for before, after in zip(methods, methods[1:]):
        pair = _pair(cells, after, before, metric, dataset, model)
        estimate, low, high = numbers = _interval(sign * (pair.values - pair.others), pair.images)
        results.append(pair.result(_decide(low > 0, high < 0), numbers, estimate))
    return results


def _interval(values, images):
    return float(np.mean(values)), *interval(resampled_means(values, images))


def _decide(holds, fails):
    return "holds" if holds else "fails" if fails else "undecided"


# -- from rows to numbers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """Values of one method, or of two on the same images and classes."""

    values: np.ndarray
    others: np.ndarray | None
    images: np.ndarray  # name of the image of each value
    sign: int  # 1 where a higher value is better
    words: str

    @property
    def gain(self):
        """Differences in favour of the first method."""
        return self.sign * (self.values - self.others)

    def result(self, outcome, numbers, margin, prefix=""):
        """The outcome of a test; margin: how far the claim is from being contradicted, to find the weakest."""
        estimate, low, high = map(float, numbers)
        return {
            "outcome": outcome, "estimate": estimate, "low": low, "high": high, "n": len(set(self.images)),
            "detail": prefix + self.words, "margin": float(margin),
        }  # fmt: skip


def _pair(cells, method, than, metric, dataset, model, than_model=None):
    a, b = _cell(cells, method, metric, dataset, model), _cell(cells, than, metric, dataset, than_model or model)
    # Two models may explain different classes of one image.
    pairs = a.merge(b, on=["image_id"] if than_model else ["image_id", "target"], suffixes=("_a", "_b"))
    if pairs.empty:
        raise NotRun(f"{_name(method)} and {_name(than)} have no image with a value of {metric} in common")
    words = f"{metric} of {_name(method)} against {_name(than)}"
    values, others, images = (pairs[column].to_numpy() for column in ("value_a", "value_b", "image_id"))
    return Values(values, others, images, 1 if higher_is_better(metric) else -1, words)


def _one(cells, method, metric, dataset, model):
    cell = _cell(cells, method, metric, dataset, model)
    return Values(cell["value"].to_numpy(), None, cell["image_id"].to_numpy(), 1, f"{metric} of {_name(method)}")


def _cell(cells, method, metric, dataset, model):
    """Rows with a value of one method: found by its label in the table, or by name and hyper-parameters.

    Raises NotRun where there are no rows, or none with a value (then with the reason that the rows give).
    """
    here = [key for key in cells if key[:2] == (dataset, model) and key[4] == metric]
    labelled = [key for key in here if key[2] == method]
    if len(labelled) > 1:  # several settings under one label: the default one
        labelled = [key for key in labelled if key[3] == "{}"]
    found = labelled or [key for key in here if _is(key[2], key[3], method)]
    if not found:
        raise NotRun(f"no rows of {_name(method)} with {metric} on {dataset}, {model}")
    rows = cells[found[0]]
    if rows["value"].isna().all():
        raise NotRun(f"{_name(method)} has no value of {metric} on {dataset}, {model}: {rows['status'].mode().iat[0]}")
    return rows.dropna(subset=["value"])


def _is(label, hyper, method):
    """Whether rows of this label and these hyper-parameters are of a method {name, settings}, defaults counted."""
    asked = {"name": method} if isinstance(method, str) else method
    given = json.loads(hyper)
    given.pop("metric", None)
    name = given.pop("method", label)
    if name != asked["name"] or name not in methods():
        return False
    settings = {key: value for key, value in asked.items() if key != "name"}
    return method_info(name).hyper | given == method_info(name).hyper | settings


def _name(method):
    if isinstance(method, str):
        return method
    settings = ", ".join(f"{key}={value}" for key, value in method.items() if key != "name")
    return f"{method['name']} ({settings})" if settings else method["name"]


SIGNS = {"holds": "\u2713 holds", "fails": "\u2717 fails", "undecided": "? undecided", "not run yet": "\u2013 not run yet"}
_COLOURS = {"\u2713": "#1a7f37", "\u2717": "#cf222e", "?": "#9a6700", "\u2013": "#6e7781"}


def show(checked, path):
    """Save the result of `check` as a page shows it, outcome first, and return it as what a notebook displays."""
    checked_rows(checked, COLUMNS, "claims are the table that `check` returns")
    writable(path)
    shown = pd.DataFrame(
        {
            "outcome": checked["outcome"].map(SIGNS),
            "claim": checked["says"],
            "place": checked["paper"] + ", " + checked["place"],
            "estimate (95 %)": [_with_interval(*numbers) for numbers in checked[["estimate", "low", "high"]].itertuples(index=False)],
            "images": checked["n"],
            "tested on": [stands_in or "" for stands_in in checked["stands_in"]],
            "detail": checked["detail"],
        }
    ).fillna("")
    save(shown, path)
    left = {"text-align": "left", "vertical-align": "top"}
    return (
        shown.style.hide(axis="index")
        .set_uuid("claims")
        .map(lambda text: f"color: {_COLOURS[text[0]]}; font-weight: bold; white-space: nowrap", subset=["outcome"])
        .set_properties(**left)
        .set_table_styles([{"selector": "th", "props": list(left.items())}])
    )


def _with_interval(estimate, low, high):
    return "" if pd.isna(estimate) else f"{estimate:.3g} ({low:.3g} to {high:.3g})"
