"""The tests that claims name: each compares rows of `evaluate`, or printed numbers, and says how firmly it comes out.

A test is called with the rows by cell (`Cells`) and the arguments of a record, and returns a list of comparisons. A comparison has
the tested quantity, its bootstrap samples, and whether it holds; whether it fails is decided with all comparisons of a claim in view
(`decide`). What a test asks of two numbers alone, without an interval, is in PRINTED.
"""

import json
from dataclasses import dataclass

import numpy as np

from xai_repro.registry import method_info, methods
from xai_repro.study.resampling import holm, how_many, interval, mean_of, ratio_of, two_sided
from xai_repro.study.statistics import higher_is_better, TIME

LEAST_IMAGES = 20  # fewer, and the interval is that of a few accidents: one image's has no width
LEAST_REPETITIONS = 3  # of a measured time
PAPER_SIZE = 224  # side of the images at which claims about time are decided
PAPER_SIZES = (PAPER_SIZE, 256)  # and those at which the papers measure it
LEVEL = 0.05
_SAME = 1e-6  # what floating point makes of equal numbers


class NotRun(LookupError):
    """There are no rows to test a claim on; the message says which are missing."""


@dataclass(frozen=True)
class Cells:
    """Rows of `evaluate` by the key (dataset, model, method, hyper, metric), and the seed of the bootstrap."""

    rows: dict
    seed: int = 0


# -- the tests: (cells, arguments of the record) -> list of comparisons ------------------------------------------------


def better(cells, method, than, metric, dataset, model, than_model=None, higher=None):
    """A method is better than another in a metric, in the metric's direction. Two that are the same up to rounding are not.

    higher: whether more is better, of a metric that is a label.
    """
    pair = _pair(cells, method, than, metric, dataset, model, than_model, sign=None if higher is None else 1 if higher else -1)
    estimate, samples = pair.gain()
    same = np.abs([estimate, *interval(samples)]).max() < _SAME and not pair.whole
    return [pair.comparison(estimate, samples, 0.0, 1, strict=True, certain=False if same else None, prefix="no difference: " if same else "")]


def generally_better(cells, method, than, metric, dataset, model, share, higher=None):
    """A method is better than another in a metric in at least a share of the comparisons; the share is for `decide`."""
    return better(cells, method, than, metric, dataset, model, higher=higher)


def different(cells, method, than, metric, dataset, model):
    """Two methods do not give the same values of a metric."""
    pair = _pair(cells, method, than, metric, dataset, model)
    estimate, samples = pair.gain()
    same = np.abs(pair.values - pair.others).max() < _SAME and not pair.whole
    low, high = interval(samples)
    found = pair.comparison(estimate, samples, 0.0, 1, certain=False if same else None, prefix="no difference: " if same else "")
    return [found | {"holds": not same and (low > 0 or high < 0), "against": same, "margin": abs(estimate)}]


def equal_within(cells, method, than, metric, dataset, model, tolerance):
    """The means of two methods in a metric differ by at most a tolerance."""
    pair = _pair(cells, method, than, metric, dataset, model)
    estimate, samples = pair.gain()
    return [_within(pair, estimate, samples, -tolerance, tolerance, f"within {tolerance:g}: ")]


def at_least(cells, method, metric, value, dataset, model):
    """The mean of a method in a metric is at least a value."""
    one = _one(cells, method, metric, dataset, model)
    return [one.comparison(*one.mean(), value, 1, prefix=f"at least {value:g}: ")]


def at_most(cells, method, metric, value, dataset, model):
    """The mean of a method in a metric is at most a value."""
    one = _one(cells, method, metric, dataset, model)
    return [one.comparison(*one.mean(), value, -1, prefix=f"at most {value:g}: ")]


def ratio_at_least(cells, method, than, metric, value, dataset, model):
    """The mean of a method in a metric is at least so many times that of another."""
    pair = _pair(cells, method, than, metric, dataset, model)
    return [pair.comparison(*pair.ratio(), value, 1, prefix=f"ratio at least {value:g}: ")]


def rising(cells, methods, metric, dataset, model):
    """A metric's mean rises from each method of a list to the next."""
    return _steps(cells, methods, metric, dataset, model, 1)


def falling(cells, methods, metric, dataset, model):
    """A metric's mean falls from each method of a list to the next."""
    return _steps(cells, methods, metric, dataset, model, -1)


def time_unchanged(cells, method, metric, dataset, model, sizes, tolerance):
    """The time of a method at the second of two sizes of the image is that at the first, up to a share of it."""
    rows = _cell(cells, method, metric, dataset, model)
    small, large = ([] if "size" not in rows else rows[rows["size"] == size] for size in sizes)
    if not len(small) or not len(large):
        raise NotRun(f"no rows of {_name(method)} with {metric} at {sizes[0]} and {sizes[1]} px on {model}")
    words = f"{metric} of {_name(method)} at {sizes[1]} px against {sizes[0]} px"
    pair = Times(large["value"].to_numpy(), small["value"].to_numpy(), -1, words, set(sizes) <= set(PAPER_SIZES), cells.seed)
    return [_within(pair, *pair.ratio(), 1 - tolerance, 1 + tolerance, f"ratio within {tolerance:g} of 1: ")]


TESTS = {
    test.__name__: test
    for test in (better, generally_better, different, equal_within, at_least, at_most, ratio_at_least, rising, falling, time_unchanged)
}
# What each asks of printed numbers, a the first method's (or the later step's), b the other's, both in favour where larger.
PRINTED = {
    "better": lambda a, b, sign, **_: sign * (a - b) > 0,
    "generally_better": lambda a, b, sign, **_: sign * (a - b) > 0,
    "different": lambda a, b, **_: a != b,
    "equal_within": lambda a, b, tolerance, **_: abs(a - b) <= tolerance + 1e-12,
    "at_least": lambda a, value, **_: a >= value,
    "at_most": lambda a, value, **_: a <= value,
    "ratio_at_least": lambda a, b, value, **_: a / b >= value,
    "rising": lambda a, b, **_: a > b,
    "falling": lambda a, b, **_: a < b,
    "time_unchanged": lambda a, b, tolerance, **_: abs(a / b - 1) <= tolerance,
}


def _steps(cells, methods, metric, dataset, model, sign):
    pairs = [_pair(cells, after, before, metric, dataset, model, sign=sign) for before, after in zip(methods, methods[1:])]
    return [pair.comparison(*pair.gain(), 0.0, 1, strict=True) for pair in pairs]


def _within(pair, estimate, samples, least, most, prefix):
    nearest = most if estimate > (least + most) / 2 else least
    low, high = interval(samples)
    found = pair.comparison(estimate, samples, nearest, -1 if nearest == most else 1, prefix=prefix)
    return found | {"holds": least <= low and high <= most, "margin": (most - least) / 2 - abs(estimate - (least + most) / 2)}


def decide(comparisons, share=1.0, missing=0):
    """Whether a claim about these comparisons, and some that are missing, holds: (outcome, number that hold).

    Each one's own outcome is written into it.

    A comparison holds where its whole interval is on the asserted side; the claim does where at least a share of them do, all without
    one. A comparison fails where its bound, two-sided, is rejected on the other side at 5 % with Holm's correction for all comparisons of
    the claim, so that of many true ones hardly ever a single one seems to fail; the claim fails where too many do. Everything
    else is undecided, and so is what rests on fewer than 20 images, or 3 repetitions of a measured time.
    """
    for one, p in zip(comparisons, holm([one["p"] for one in comparisons])):
        few = one["n"] < one["least"]
        one["outcome"] = "undecided" if few else "holds" if one["holds"] else "fails" if one["against"] and p <= LEVEL else "undecided"
    held, failed = (sum(one["outcome"] == outcome for one in comparisons) for outcome in ("holds", "fails"))
    every = len(comparisons) + missing
    asked = share * every - 1e-9
    if not all(one["comparable"] for one in comparisons):
        return "not comparable", held
    return "holds" if held >= asked else "fails" if every - failed < asked else "not run yet" if missing else "undecided", held


# -- from rows to numbers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """Values of one method, or of two on the same images and classes."""

    values: np.ndarray
    others: np.ndarray | None
    images: np.ndarray  # name of the image of each value
    runs: np.ndarray
    sign: int  # 1 where a higher value is better
    words: str
    seed: int = 0
    comparable = True
    least = LEAST_IMAGES

    @property
    def whole(self):
        """Whether all values are 0 or 1: two methods that agree on some images may differ on the next, and need not be the same."""
        return bool(np.isin([self.values, self.others], (0, 1)).all())

    def mean(self):
        return mean_of(self.values, self.images, self.runs, seed=self.seed)

    def gain(self):
        """Mean difference in favour of the first method, and samples of it."""
        return mean_of(self.sign * (self.values - self.others), self.images, self.runs, seed=self.seed)

    def ratio(self):
        return ratio_of(self.values, self.others, self.images, self.runs, seed=self.seed)

    @property
    def size(self):
        return {"n": len(set(self.images)), "networks": how_many(self.runs)}

    def comparison(self, estimate, samples, bound, sign, strict=False, certain=None, prefix=""):
        """What is known of one comparison. sign: 1 where more than the bound is asserted; strict: and the bound itself is not enough.

        certain: whether it holds, where that is not for an interval to say.
        margin: how far it is from being contradicted, to find the weakest; against: whether it lies on the other side.
        """
        low, high = interval(samples)
        worst = sign * ((low if sign > 0 else high) - bound)
        holds = worst > 0 or (worst >= 0 and not strict)
        p = two_sided(samples, bound) if certain is None else 1 / (1 + len(samples))
        return self.size | {
            "estimate": float(estimate), "low": float(low), "high": float(high), "p": p,
            "holds": bool(holds) if certain is None else certain, "against": sign * (estimate - bound) < 0 if certain is None else not certain,
            "margin": float(sign * (estimate - bound)), "detail": prefix + self.words, "comparable": self.comparable, "least": self.least,
        }  # fmt: skip


@dataclass(frozen=True)
class Times:
    """Times of two methods. Repetitions are drawn again, each method's for itself: they are no pairs, and few (so t, as for networks)."""

    values: np.ndarray
    others: np.ndarray | None
    sign: int
    words: str
    comparable: bool
    seed: int = 0
    least = LEAST_REPETITIONS
    whole = False
    comparison = Values.comparison

    def mean(self):
        return _time(self.values, self.seed)

    def gain(self):
        (a, many), (b, others) = _time(self.values, self.seed), _time(self.others, 1000 + self.seed)
        return self.sign * (a - b), self.sign * (many - others)

    def ratio(self):
        (a, many), (b, others) = _time(self.values, self.seed), _time(self.others, 1000 + self.seed)
        return a / b, many / others

    @property
    def size(self):
        return {"n": min(len(one) for one in (self.values, self.others) if one is not None), "networks": 1}


def _time(values, seed):
    return mean_of(values, np.zeros(len(values), int), np.arange(len(values)), seed=seed)


def _pair(cells, method, than, metric, dataset, model, than_model=None, sign=None):
    sign = sign or (1 if higher_is_better(metric) else -1)
    a, b = _cell(cells, method, metric, dataset, model), _cell(cells, than, metric, dataset, than_model or model)
    words = f"{metric} of {_name(method)} against {_name(than)}"
    if metric == TIME:
        (a, b), comparable = _at_one_size(a, b)
        return Times(a["value"].to_numpy(), b["value"].to_numpy(), sign, words, comparable, cells.seed)
    # Two models may explain different classes of one image.
    pairs = a.merge(b, on=["run", "image_id"] if than_model else ["run", "image_id", "target"], suffixes=("_a", "_b"))
    if pairs.empty:
        raise NotRun(f"{_name(method)} and {_name(than)} have no image with a value of {metric} in common")
    values, others, images, runs = (pairs[column].to_numpy() for column in ("value_a", "value_b", "image_id", "run"))
    return Values(values, others, images, runs, sign, words, cells.seed)


def _one(cells, method, metric, dataset, model):
    cell = _cell(cells, method, metric, dataset, model)
    values, images, runs = (cell[column].to_numpy() for column in ("value", "image_id", "run"))
    return Values(values, None, images, runs, 1, f"{metric} of {_name(method)}", cells.seed)


def _at_one_size(a, b):
    """The times of two methods at the paper's size, else at the largest that both have, and whether it is the paper's."""
    both = set(a["size"].dropna()) & set(b["size"].dropna()) if "size" in a and "size" in b else ()
    if not both:
        return (a, b), False
    size = PAPER_SIZE if PAPER_SIZE in both else max(both)
    return tuple(one[one["size"] == size] for one in (a, b)), size == PAPER_SIZE


def _cell(cells, method, metric, dataset, model):
    """Rows with a value of one method: found by its label in the table, or by name and hyper-parameters.

    Raises NotRun where there are no rows, or none with a value (then with the reason that the rows give).
    """
    here = [key for key in cells.rows if key[:2] == (dataset, model) and key[4] == metric]
    labelled = [key for key in here if key[2] == method]
    if len(labelled) > 1:  # several settings under one label: the default one
        labelled = [key for key in labelled if key[3] == "{}"]
    found = labelled or [key for key in here if _is(key[2], key[3], method)]
    if not found:
        raise NotRun(f"no rows of {_name(method)} with {metric} on {dataset}, {model}")
    rows = cells.rows[found[0]]
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
