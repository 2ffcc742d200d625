"""When a claim holds and when it fails: Holm, few images, shares, runs, times, and the papers' own numbers."""

import numpy as np
import pandas as pd
import pytest
from toy_rows import rows

from xai_repro.published import published
from xai_repro.study import claims, printed
from xai_repro.study.outcomes import decide

PLACE = {"dataset": "imagenet", "model": "vgg16"}
DROP = {"metric": "average-drop", **PLACE}  # lower is better
NOISE = np.random.default_rng(0).normal(0, 1, 60)


def outcome(monkeypatch, df, seed=0, **record):
    monkeypatch.setattr(claims, "all", lambda paper=None: [{"id": "x", "paper": "lift_cam", "place": "", "says": ""} | record])
    (found,) = claims.check(df, seed=seed).to_dict("records")
    return found


def shifted(mean, method, p_like=2.2):
    """60 values whose mean, over its standard error, is what is asked."""
    noise = (NOISE - NOISE.mean()) / NOISE.std() * np.sqrt(60) / p_like
    return rows(mean * (1 + noise), method=method)


def made(*pairs, n=60):
    """Comparisons of (holds, against, p)."""
    return [{"holds": h, "against": a, "p": p, "n": n, "least": 20, "comparable": True} for h, a, p in pairs]


def test_decide():
    assert decide(made((True, False, 0.001), (True, False, 0.001))) == ("holds", 2)
    assert decide(made((True, False, 0.001), (False, True, 0.03))) == ("fails", 1)  # corrected: .03 of the one that is left
    assert decide(made((True, False, 0.9), (False, True, 0.03))) == ("undecided", 1)  # .06
    assert decide(made((False, False, 0.001))) == ("undecided", 0)  # rejected, but not on the other side
    assert decide(made((False, True, 0.05))) == ("fails", 0) and decide(made((False, True, 0.051))) == ("undecided", 0)
    assert decide(made((True, False, 0.001)), missing=1) == ("not run yet", 1) and decide(made((False, True, 0.001)), missing=1) == ("fails", 0)
    assert decide(made((True, False, 0.001), n=19)) == ("undecided", 0) and decide(made((False, True, 0.001), n=19)) == ("undecided", 0)
    assert decide(made((True, False, 0.001), n=20)) == ("holds", 1)


def test_decide_by_share():
    two, fail, open_ = [(True, False, 1e-4)] * 2, [(False, True, 1e-4)], [(False, False, 0.5)]
    assert decide(made(*two, *fail), share=0.66)[0] == "holds" and decide(made(*two, *fail))[0] == "fails"
    assert decide(made(two[0], *open_, *fail), share=0.66)[0] == "undecided" and decide(made(two[0], *fail, *fail), share=0.66)[0] == "fails"
    assert decide(made(two[0], *fail), share=0.66, missing=1)[0] == "not run yet" and decide(made(*two), share=0.66, missing=1)[0] == "holds"


def test_one_of_many_hardly_fails(monkeypatch):
    """A single comparison at 2.2 standard errors fails alone, and with nineteen that are as near to equal does not."""
    near = [shifted(-1.0, f"near {n}", 0.3) for n in range(19)]
    base, odd = rows(np.zeros(60), method="lift-cam"), shifted(-1.0, "grad-cam")
    claim = {"test": "better", "method": "lift-cam", **DROP}
    assert outcome(monkeypatch, pd.concat([base, odd]), than=["grad-cam"], **claim)["outcome"] == "fails"
    found = outcome(monkeypatch, pd.concat([base, odd, *near]), than=["grad-cam", *(f"near {n}" for n in range(19))], **claim)
    assert found["outcome"] == "undecided" and found["detail"].startswith("0 of 20 comparisons hold; ")


@pytest.mark.parametrize("n, expected", [(1, "undecided"), (19, "undecided"), (20, "holds")])
def test_few_images_decide_nothing(monkeypatch, n, expected):
    df = pd.concat([rows(NOISE[:n] - 1, method="lift-cam"), rows(NOISE[:n], method="grad-cam")])
    found = outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)
    assert found["outcome"] == expected and ("fewer than 20 images" in found["detail"]) == (n < 20)


def test_networks_are_drawn_again(monkeypatch):
    """Four of five networks agree strongly: sure over images alone, and undecided over networks."""
    gains = np.repeat([1.0, 1.0, 1.0, 1.0, -2.0], 20) + np.tile(NOISE[:20], 5) / 10
    df = pd.concat([rows(-gains, method="lift-cam"), rows(gains * 0, method="grad-cam")])
    claim = {"test": "better", "method": "lift-cam", "than": "grad-cam", **DROP}
    alone = outcome(monkeypatch, df, **claim)
    assert (alone["outcome"], alone["n"], alone["networks"]) == ("holds", 100, 1)
    found = outcome(monkeypatch, df.assign(run=np.tile(np.repeat(range(5), 20), 2)), **claim)
    assert (found["outcome"], found["n"], found["networks"]) == ("undecided", 100, 5)
    assert found["low"] < 0 < found["high"] and found["estimate"] == pytest.approx(alone["estimate"])


def test_pairs_are_runs_images_and_classes(monkeypatch):
    """The same image in two runs and for two classes is four pairs, each with its own: crosswise the gains would cancel."""
    images = [f"i{n}" for n in range(20)]
    a = pd.concat([rows(np.full(20, value), images, method="lift-cam", run=run, target=target) for run, target, value in ((0, 0, 1.0), (0, 1, 2.0), (1, 0, 5.0), (1, 1, 7.0))])
    b = a.assign(method="grad-cam", value=a["value"] + 1)
    found = outcome(monkeypatch, pd.concat([a, b]), test="better", method="lift-cam", than="grad-cam", **DROP)
    assert (found["estimate"], found["low"], found["high"], found["n"]) == pytest.approx((1, 1, 1, 20))
    assert found["outcome"] == "holds" and found["networks"] == 2


def test_classes_are_not_compared_with_each_other(monkeypatch):
    """Class 1 has values of one method alone: it makes no pairs with class 0 of the other."""
    images = [f"i{n}" for n in range(20)]
    a = pd.concat([rows(np.full(20, value), images, method="lift-cam", target=target) for target, value in ((0, 1.0), (1, 5.0))])
    b = rows(np.full(20, 2.0), images, method="grad-cam")
    found = outcome(monkeypatch, pd.concat([a, b]), test="better", method="lift-cam", than="grad-cam", **DROP)
    assert (found["estimate"], found["low"], found["high"], found["outcome"]) == (1, 1, 1, "holds")


def test_an_interval_that_ends_at_nothing_is_not_better(monkeypatch):
    """Two images of sixty gain: one sample in eight draws neither."""
    df = pd.concat([rows(np.where(np.arange(60) < 2, 0.0, 1.0), method="lift-cam"), rows(np.ones(60), method="grad-cam")])
    found = outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)
    assert (found["low"], found["outcome"]) == (0, "undecided") and found["high"] > found["estimate"] > 0


def test_the_weakest_of_what_is_nearly_equal_is_the_farthest(monkeypatch):
    df = pd.concat([rows(NOISE + shift, method=name) for name, shift in (("lift-cam", 0.0), ("grad-cam", 0.08), ("score-cam", -0.02))])
    found = outcome(monkeypatch, df, test="equal_within", method="lift-cam", than=["grad-cam", "score-cam"], tolerance=0.1, **DROP)
    assert found["outcome"] == "holds" and found["estimate"] == pytest.approx(0.08)


def test_of_rows_that_are_there_twice_the_first_count(monkeypatch, capsys):
    df = pd.concat([rows(NOISE - 1, method="lift-cam"), rows(NOISE, method="grad-cam"), rows(NOISE + 9, method="lift-cam")])
    assert outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)["estimate"] == pytest.approx(1)
    assert "60 of 180 rows are there twice" in capsys.readouterr().out


def test_a_missing_value_is_no_zero(monkeypatch):
    df = pd.concat([rows(np.where(np.arange(60) < 30, np.nan, 2.0), method="lift-cam"), rows(np.full(60, 1.0), method="grad-cam")])
    found = outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)
    assert (found["estimate"], found["n"], found["outcome"]) == (-1.0, 30, "fails")


def test_different_needs_no_difference_of_means(monkeypatch):
    """Gains that cancel in the mean are a difference, and not one of the mean: neither holds nor fails."""
    df = pd.concat([rows(np.tile([1.0, -1.0], 30), method="lift-cam"), rows(np.zeros(60), method="grad-cam")])
    assert outcome(monkeypatch, df, test="different", method="lift-cam", than="grad-cam", **DROP)["outcome"] == "undecided"
    assert outcome(monkeypatch, df.assign(value=0.5), test="different", method="lift-cam", than="grad-cam", **DROP)["outcome"] == "fails"


@pytest.mark.parametrize("test", ["better", "different"])
def test_the_same_hits_are_no_proof_of_the_same_method(monkeypatch, test):
    """Values of 0 and 1 that agree on sixty images may differ on the next; other numbers that agree so often are the same by algebra."""
    for values, expected in ((np.tile([1.0, 0.0], 30), "undecided"), (np.ones(60), "undecided"), (np.tile([1.0, 0.5], 30), "fails")):
        df = pd.concat([rows(values, method=name) for name in ("lift-cam", "grad-cam")])
        assert outcome(monkeypatch, df, test=test, method="lift-cam", than="grad-cam", **DROP)["outcome"] == expected


def test_the_numbers_are_of_the_weakest(monkeypatch):
    df = pd.concat([rows(NOISE - 3, method="lift-cam"), rows(NOISE, method="grad-cam"), rows(NOISE - 2, method="xgrad-cam"), rows(NOISE - 1, method="score-cam")])
    found = outcome(monkeypatch, df, test="better", method="lift-cam", than=["grad-cam", "xgrad-cam", "score-cam"], **DROP)
    assert found["estimate"] == pytest.approx(1) and "3 of 3 comparisons hold; average-drop of lift-cam against xgrad-cam" == found["detail"]


def test_a_label_of_several_settings_is_the_default_one(monkeypatch):
    df = pd.concat([rows(NOISE - 5, method="lift-cam", hyper='{"a": 1}'), rows(NOISE - 1, method="lift-cam"), rows(NOISE, method="grad-cam")])
    assert outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)["estimate"] == pytest.approx(1)


def test_generally(monkeypatch):
    df = pd.concat([rows(NOISE - 1, method="lift-cam"), rows(NOISE, method="grad-cam"), rows(NOISE + 1, method="score-cam"), rows(NOISE - 2, method="xgrad-cam")])
    claim = {"test": "generally_better", "method": "lift-cam", "than": ["grad-cam", "score-cam", "xgrad-cam"], **DROP}
    found = outcome(monkeypatch, df, share=0.66, **claim)
    assert found["outcome"] == "holds" and found["detail"] == "2 of 3 comparisons hold; 66% are asked for; average-drop of lift-cam against grad-cam"  # the weakest of those that hold
    assert (found["estimate"], found["low"], found["high"], found["n"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 60))
    assert outcome(monkeypatch, df, share=0.67, **claim)["outcome"] == "fails"


def test_seeds_change_numbers_and_no_outcome(monkeypatch):
    df = pd.concat([rows(NOISE[::-1] - 1, method="lift-cam"), rows(NOISE, method="grad-cam")])
    claim = {"test": "better", "method": "lift-cam", "than": "grad-cam", **DROP}
    found = [outcome(monkeypatch, df, seed=seed, **claim) for seed in range(11)]
    assert {one["outcome"] for one in found} == {"holds"} and len({one["low"] for one in found}) == 11


# -- times ------------------------------------------------------------------------------------------------------------------


def timed(size, seconds, method, model="vgg19"):
    return rows(np.ones(len(seconds)), [f"{size} px, run {n}" for n in range(len(seconds))], method=method, metric="forward-passes", model=model, size=size).assign(seconds=seconds)


@pytest.mark.parametrize("size, model, repetitions, expected", [
    (224, "vgg19", 5, "holds"), (64, "vgg19", 5, "not comparable"), (224, "mini-vgg", 5, "not comparable"), (224, "vgg19", 2, "undecided"),
])  # fmt: skip
def test_times_are_decided_at_the_papers_size(monkeypatch, size, model, repetitions, expected):
    slow, fast = (base + 0.001 * np.arange(repetitions) for base in (1.0, 0.1))
    df = pd.concat([timed(size, slow, "score-cam", model), timed(size, fast, "grad-cam", model)])
    claim = {"test": "better", "method": "grad-cam", "than": "score-cam", "metric": "milliseconds", "dataset": "imagenet", "model": "vgg19"}
    found = outcome(monkeypatch, df, **claim)
    assert found["outcome"] == expected and found["n"] == repetitions and found["estimate"] == pytest.approx(900)


def test_times_of_another_size_do_not_count(monkeypatch):
    df = pd.concat([timed(size, np.array([base, base, base]) * (1 if size == 224 else 9), name) for size in (224, 64, 256) for base, name in ((0.4, "score-cam"), (0.1, "grad-cam"))])
    claim = {"test": "ratio_at_least", "method": "score-cam", "than": "grad-cam", "metric": "milliseconds", "value": 3.9, "dataset": "imagenet", "model": "vgg19"}
    df.loc[(df["size"] != 224) & (df["method"] == "grad-cam"), "seconds"] = 9
    found = outcome(monkeypatch, df, **claim)
    assert found["outcome"] == "holds" and (found["estimate"], found["n"]) == (pytest.approx(4), 3)


def test_without_the_papers_size_the_largest_counts(monkeypatch):
    df = pd.concat([timed(size, np.full(3, base * size), name) for size in (64, 128, 96) for base, name in ((0.04, "score-cam"), (0.01, "grad-cam"))])
    claim = {"test": "better", "method": "grad-cam", "than": "score-cam", "metric": "milliseconds", "dataset": "imagenet", "model": "vgg19"}
    found = outcome(monkeypatch, df, **claim)
    assert found["outcome"] == "not comparable" and found["estimate"] == pytest.approx(0.03 * 128 * 1000)


@pytest.mark.parametrize("factor, expected", [(1.1, "holds"), (0.9, "holds"), (1.3, "fails"), (0.7, "fails")])
def test_time_unchanged(monkeypatch, factor, expected):
    df = pd.concat([timed(size, 0.1 * (factor if size == 256 else 1) + 1e-5 * np.arange(5), "grad-cam") for size in (224, 256)])
    claim = {"test": "time_unchanged", "method": "grad-cam", "metric": "milliseconds", "sizes": [224, 256], "tolerance": 0.15, "dataset": "imagenet", "model": "vgg19"}
    found = outcome(monkeypatch, df, **claim)
    assert found["outcome"] == expected and found["estimate"] == pytest.approx(factor, rel=1e-3)
    assert outcome(monkeypatch, df[df["size"] == 224], **claim)["outcome"] == "not run yet"


# -- the papers' own numbers ------------------------------------------------------------------------------------------------


def test_every_named_table_has_numbers():
    for record in claims.all():
        assert (printed.on_paper(record) == ("", "")) == ("table" not in record)


def test_generally_outperforms_by_hand():
    """Table 4 of the supplement, cell by cell."""
    cells, held, every = published("lift_cam", "4"), 0, 0
    for (_, metric, _), part in cells.groupby(["dataset", "metric", "model"]):
        value = part.set_index("method")["value"]
        for other in ("grad-cam", "grad-cam++", "xgrad-cam", "score-cam"):
            every += 1
            held += value["lift-cam"] < value[other] if metric == "average-drop" else value["lift-cam"] > value[other]
    (record,) = [record for record in claims.all() if record["id"] == "lift-4-lift-is-best"]
    assert printed.on_paper(record) == ("holds", f"{held} of {every}") == ("holds", "34 of 36")
    assert printed.on_paper(record | {"share": 0.95})[0] == "fails"


@pytest.mark.parametrize("name, expected", [
    ("lift-5-lift-beats-lime", "9 of 9"), ("lift-5-lift-beats-lime-10", "6 of 9"), ("lift-1-converges", "12 of 12"), ("lift-7-ic", "5 of 5"),
    ("collection-2-time-resolution", "7 of 9"), ("collection-2-time-rise-most", "1 of 2"), ("collection-2-time-score", "6 of 6"), ("collection-3-insertion", "30 of 30"),
    ("clam-3-lower-best", "22 of 22"), ("clam-3-higher-sglrp", "36 of 40"), ("clam-2-sglrp-resnet", "40 of 40"), ("clam-2-best-vgg", "23 of 24"),
])  # fmt: skip
def test_counts_on_paper(name, expected):
    (record,) = [record for record in claims.all() if record["id"] == name]
    assert printed.on_paper(record)[1] == expected


@pytest.mark.parametrize("value, expected", [(0.26, "holds"), (0.27, "fails")])
def test_printed_percent_are_fractions(value, expected):
    """Table 7: LIFT-CAM has 26.30 %."""
    record = {"id": "x", "paper": "lift_cam", "table": "7", "test": "at_least", "method": "lift-cam", "value": value, "metric": "increase-in-confidence", **PLACE}
    assert printed.on_paper(record) == (expected, "1 of 1" if expected == "holds" else "0 of 1")


def test_a_name_that_a_table_has_twice_is_no_number():
    """Table 5 has LIME-CAM with two numbers of samples: only the heading says which."""
    record = {"id": "x", "paper": "lift_cam", "table": "5", "test": "better", "method": "lift-cam", "than": "lime-cam", **DROP}
    with pytest.raises(ValueError, match="table 5 of lift_cam has no number of claim x"):
        printed.on_paper(record)


def test_a_wrong_table_is_refused():
    with pytest.raises(ValueError, match="table 6 of lift_cam has no number of claim x"):
        printed.on_paper({"id": "x", "paper": "lift_cam", "table": "6", "test": "better", "method": "lift-cam", "than": "grad-cam", **DROP})


@pytest.mark.parametrize("change, message", [
    ({"share": 0.0}, "share is 0.0"), ({"share": 1.5}, "share is 1.5"), ({"share": "most"}, "share in claim x"), ({"share": None}, "needs 'share'"),
])  # fmt: skip
def test_a_share_is_a_share(change, message):
    record = {"id": "x", "place": "p", "says": "s", "test": "generally_better", "method": "lift-cam", "than": "cam", **DROP} | change
    record = {key: value for key, value in record.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        claims.records._check("claim x", record, claims.TESTS, claims.records._possible("lift_cam", {}))


@pytest.mark.parametrize("sizes", [224, [224], [224, "256"], [224, 0]])
def test_sizes_are_two_sides(sizes):
    record = {"id": "x", "place": "p", "says": "s", "test": "time_unchanged", "method": "grad-cam", "sizes": sizes, "tolerance": 0.1, **DROP}
    with pytest.raises(ValueError, match="sizes"):
        claims.records._check("claim x", record, claims.TESTS, claims.records._possible("lift_cam", {}))
