"""The bootstrap over networks and images, against plain resampling row by row and against every possible sample."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import norm, t

from xai_repro.study import resampling, tables
from xai_repro.study.resampling import holm, interval, mean_of, ratio_of, resampled, two_sided, units


@pytest.fixture
def plain(monkeypatch):
    """Samples as they were drawn."""
    monkeypatch.setattr(resampling, "_stretched", lambda samples, *_: samples)


def spread(values, images, runs, resamples=20_000):
    return mean_of(values, images, runs, resamples)[1]


def test_one_run_is_the_bootstrap_over_images():
    values, images = np.random.default_rng(0).normal(size=30), [f"i{n}" for n in range(30)]
    drawn = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=1000)
    for runs in (None, np.zeros(30, int), np.full(30, 7)):
        assert spread(values, images, runs, 1000) == pytest.approx(drawn @ values / 30)
    assert np.array_equal(spread(values, images, None, 1000), spread(values, images, None, 10_000)[:1000])


def test_images_of_their_own_are_drawn_within_drawn_runs(plain):
    """Two runs of two images: all 4 draws of runs times 16 of images are equally likely."""
    values = {0: (0.0, 1.0), 1: (10.0, 30.0)}
    exact = [np.mean([values[run][image] for run, pair in zip(runs, (first, second)) for image in pair])
             for runs in product((0, 1), repeat=2) for first in product((0, 1), repeat=2) for second in product((0, 1), repeat=2)]  # fmt: skip
    found = spread([0.0, 1.0, 10.0, 30.0], list("abcd"), [0, 0, 1, 1])
    assert found.mean() == pytest.approx(np.mean(exact), abs=0.2) and found.var() == pytest.approx(np.var(exact), rel=0.04)
    assert set(found.round(6)) <= set(np.round(exact, 6)) and len(set(found.round(6))) == len(set(np.round(exact, 6)))


def test_an_image_of_several_runs_is_drawn_once_for_all(plain):
    table = np.array([[0.0, 5.0, 1.0], [10.0, 30.0, 2.0]])  # [runs, images]
    exact = [table[np.ix_(runs, images)].mean() for runs in product(range(2), repeat=2) for images in product(range(3), repeat=3)]
    found = spread(table.ravel(), list("abc") * 2, np.repeat([0, 1], 3))
    assert found.mean() == pytest.approx(np.mean(exact), abs=0.2) and found.var() == pytest.approx(np.var(exact), rel=0.04)
    assert set(found.round(6)) == set(np.round(exact, 6))


def test_rows_of_a_pair_count_each(plain):
    """The mean is over rows, so that an image with three classes counts three times, in its denominator, too."""
    estimate, samples = mean_of([0.0, 0.0, 0.0, 1.0], list("aaab"), None, 5000)
    assert estimate == 0.25 and set(samples.round(9)) == {0.0, 0.25, 1.0}
    estimate, samples = ratio_of([2.0, 2.0, 8.0], [1.0, 3.0, 1.0], list("aab"), None, 5000)
    assert estimate == pytest.approx(12 / 5) and set(samples.round(9)) == {1.0, 2.4, 8.0}  # of means, not the mean of ratios


def test_few_runs_are_stretched_as_student_says():
    """Runs of one image each that all count: the interval of R numbers, t with R - 1 degrees of freedom."""
    values = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
    estimate, samples = mean_of(values, ["same"] * 5, np.arange(5), 50_000)
    assert estimate == pytest.approx(4.2)
    assert samples.std() * norm.ppf(0.975) == pytest.approx(t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5), rel=0.02)


def test_the_interval_covers_what_it_should():
    """Five networks that differ as much as images do: with the stretching near 95 %, without it too rarely."""
    rng, runs, hits = np.random.default_rng(5), np.repeat(np.arange(5), 8), 0
    for _ in range(300):
        low, high = interval(mean_of(rng.normal(size=40) + rng.normal(size=5)[runs], np.arange(40), runs, 500)[1])
        hits += low <= 0 <= high
    assert 0.91 < hits / 300 < 0.99


def test_many_blocks_are_one(monkeypatch):
    values, runs = np.random.default_rng(1).normal(size=12), np.repeat([0, 1, 2], 4)
    whole = mean_of(values, np.arange(12), None, 400)[1]
    monkeypatch.setattr(resampling, "_BLOCK", 60)
    resampling._kept.cache_clear()
    assert mean_of(values, np.arange(12), None, 400)[1] == pytest.approx(whole, abs=1e-12)
    assert len(mean_of(values, np.arange(12), runs, 401)[1]) == 401
    resampling._kept.cache_clear()


def test_units_are_pairs_of_run_and_image():
    codes, design = units(list("abab"), [4, 4, 9, 9])
    assert codes.tolist() == [0, 1, 2, 3] and design == ((0, 0, 1, 1), (0, 1, 0, 1))
    assert resampled(design, lambda weights: weights.sum(1), 3)[0] == 4


def test_p_of_a_bound():
    samples = np.array([-1.0] * 3 + [1.0] * 195 + [2.0, np.nan])
    for bound, count in ((0.0, 4), (-9.0, 1), (1.5, 2), (-1.0, 4)):  # and one more than are beyond
        assert two_sided(samples, bound) == pytest.approx(2 * (count + 2 * np.sqrt(count)) / 200)
    assert two_sided(samples, 1.0) == 1.0


def test_what_is_rejected_is_so_with_other_draws():
    """Draws of a mean that lies a little over 2 standard errors from the bound: 2.5 % would be rejected at 5 % in some of them only."""
    generator = np.random.default_rng(0)
    border = [two_sided(generator.normal(1.97, 1, 2000), 0.0) for _ in range(200)]
    beyond = [two_sided(generator.normal(2.5, 1, 2000), 0.0) for _ in range(200)]
    assert np.mean(np.array(border) <= 0.05) < 0.05 and max(beyond) <= 0.05


def test_holm_by_hand():
    """Smallest times three, next times two, last times one; never below the one before; at most 1."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0]) and holm([0.02]) == pytest.approx([0.02]) and len(holm([])) == 0


@pytest.mark.parametrize("methods", [2, 3, 4, 5, 6, 7])
def test_the_tau_that_chance_does_not_reach(methods):
    """By enumeration of all orders."""
    orders = np.array(list(permutations(range(methods))))
    taus = tables.kendall(np.arange(methods), orders).round(9)
    enough = [tau for tau in sorted(set(taus)) if tau > 0 and (np.abs(taus) >= tau).mean() <= 0.05]
    assert tables.needed(methods) == pytest.approx(min(enough)) if enough else np.isnan(tables.needed(methods))
    if methods == 6:
        assert tables.needed(6) == pytest.approx(0.8667, abs=1e-4)


# -- runs that compare two networks ---------------------------------------------------------------------------------------------


def test_pairs_of_networks_count_as_often_as_both_were_drawn(plain):
    """Three networks, their three pairs, one image: all 27 draws of networks are equally likely, less those that hold no pair."""
    values = {(0, 1): 1.0, (0, 2): 5.0, (1, 2): 30.0}
    exact = []
    for drawn in product(range(3), repeat=3):
        weights = {pair: drawn.count(pair[0]) * drawn.count(pair[1]) for pair in values}
        if total := sum(weights.values()):
            exact.append(sum(weights[pair] * value for pair, value in values.items()) / total)
    found = spread(list(values.values()), ["a"] * 3, [resampling.both(*pair) for pair in values])
    found = found[~np.isnan(found)]
    assert found.mean() == pytest.approx(np.mean(exact), abs=0.2) and found.var() == pytest.approx(np.var(exact), rel=0.04)
    assert set(found.round(6)) == set(np.round(exact, 6)) and len(exact) == 24
    codes, design = units(["a", "b", "a"], ["x&y", "x&y", "y&z"])
    assert codes.tolist() == [0, 1, 2] and design == (((0, 1), (0, 1), (1, 2)), (0, 1, 0))
    assert resampling.how_many(["x&y", "y&z", "x&z"]) == 3 and resampling.how_many([0, 0, 1]) == 2


def test_intervals_of_pairs_hold_the_mean_in_most_studies():
    """Values of pairs of five networks, the sum of what each brings: the interval covers 0 in about 95 of 100 studies; drawn as ten independent runs it would not."""
    generator, covered, naive, widths = np.random.default_rng(1), 0, 0, []
    names = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for _ in range(150):
        own = generator.normal(size=5)
        values = [own[i] + own[j] + 0.1 * generator.normal() for i, j in names for _ in range(4)]
        images = [f"i{n}" for _ in names for n in range(4)]
        for kind in ("pairs", "runs"):
            runs = [resampling.both(i, j) if kind == "pairs" else f"{i}-{j}" for i, j in names for _ in range(4)]
            low, high = interval(mean_of(values, images, runs, 500)[1])
            if kind == "pairs":
                covered += low <= 0 <= high
            else:
                naive += low <= 0 <= high
            widths.append(high - low)
    assert covered >= 0.88 * 150 and naive < 0.85 * 150
    assert np.median(widths[1::2]) < np.median(widths[::2]) < 8  # the mean's own deviation is 2 / sqrt(5) = .9, and t with 4 degrees has 2.8 of these on either side


def test_one_or_two_pairs_say_nothing_of_other_networks():
    images = [f"i{n}" for n in range(30)]
    for names, known in ((["a&b"], False), (["a&b", "b&c"], False), (["a&b", "b&c", "a&c"], True)):
        values, runs = np.random.default_rng(0).normal(5, 1, 30 * len(names)), np.repeat(names, 30)
        mean, samples = mean_of(values, images * len(names), runs, 200)
        assert mean == pytest.approx(values.mean()) and np.isfinite(interval(samples)[0]) == known and (two_sided(samples, 0.0) < 0.05) == known
