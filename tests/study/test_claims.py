"""claims: the records are complete, and the tests decide constructed cases as they should."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xai_repro.errors import UnknownName
from xai_repro.published import papers, published
from xai_repro.registry import methods, metrics
from xai_repro.study import claims
from xai_repro.study.tables import STANDS_IN, higher_is_better
from toy_rows import rows, table7


def outcome(monkeypatch, df, **record):
    """The checked record of one claim."""
    monkeypatch.setattr(claims, "all", lambda paper=None: [{"id": "x", "paper": "clam", "place": "", "says": ""} | record])
    (found,) = claims.check(df).to_dict("records")
    return found


PLACE = {"dataset": "imagenet", "model": "vgg16"}
DROP = {"metric": "average-drop", **PLACE}  # lower is better
NOISE = np.random.default_rng(0).normal(0, 1, 60)


def two(a, b, **facts):
    return pd.concat([rows(a, method="grad-cam", **facts), rows(b, method="lift-cam", **facts)], ignore_index=True)


def test_claims_about_time():
    timed = claims.about_time(pd.DataFrame(claims.all()))
    assert timed.sum() == 7 and set(pd.DataFrame(claims.all())["test"][timed]) == {"better", "ratio_at_least", "time_unchanged"}


def test_records_are_complete():
    records = claims.all()
    assert len({record["id"] for record in records}) == len(records)
    assert {record["paper"] for record in records} == set(papers())
    for record in records:
        assert {"id", "paper", "place", "says", "test", "metric", "dataset", "model"} <= set(record) and record["test"] in claims.TESTS
        assert record["place"] and record["says"].endswith((".", ")."))
        for comparison in claims.records.comparisons(record):
            assert comparison["dataset"] in STANDS_IN and (comparison["model"] in STANDS_IN or comparison["model"].startswith("mini-"))
    assert [r["paper"] for r in claims.all("clam")] == ["clam"] * len(claims.all("clam"))
    with pytest.raises(UnknownName, match="did you mean 'clam'"):
        claims.all("clan")


def test_known_names_are_used():
    """What the library has goes by the library's names: a misspelt method would never run."""
    for record in claims.all():
        printed = {*published(record["paper"])["row"], *published(record["paper"])["column"]}  # a label may be a heading
        for comparison in claims.records.comparisons(record):
            for method in [comparison.get("method"), comparison.get("than"), *comparison.get("methods", [])]:
                name = method["name"] if isinstance(method, dict) else method
                near = [known for known in methods() if name and known.replace("-", "") == name.lower().replace("-", "")]
                assert not near or near == [name] or name in printed
            assert comparison["metric"] not in metrics() or higher_is_better(comparison["metric"]) is not None


def test_without_rows_every_claim_says_what_is_missing():
    found = claims.check(rows([]))
    assert len(found) == len(claims.all()) and set(found.outcome) == {"not run yet"} and (found.detail != "").all()
    assert list(found.columns) == claims.COLUMNS


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (NOISE - 1, NOISE, "holds"),  # lower by one on every image: the pairing removes the noise
        (NOISE + 1, NOISE, "fails"),
        (NOISE, NOISE[::-1], "undecided"),
        (NOISE, NOISE, "fails"),  # equal is not better
    ],
)
def test_better(monkeypatch, ours, theirs, expected):
    found = outcome(monkeypatch, two(theirs, ours), test="better", method="lift-cam", than="grad-cam", **DROP)
    assert found["outcome"] == expected and found["n"] == 60
    assert found["stands_in"] == "mini-birds for imagenet, mini-vgg for vgg16"
    if expected == "holds":
        assert (found["estimate"], found["low"], found["high"]) == pytest.approx((1, 1, 1))


def test_pairs_are_images_and_classes(monkeypatch):
    df = two([0.0, 1.0, 2.0], [0.5, 1.5, 2.5])
    df.loc[df.method == "lift-cam", "image_id"] = ["i1", "i2", "i9"]
    found = outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)
    assert found["n"] == 2 and found["estimate"] == pytest.approx(0.5)


def test_one_failure_fails_and_one_hole_leaves_it_open(monkeypatch):
    df = pd.concat([two(NOISE, NOISE - 1), rows(NOISE - 2, method="xgrad-cam")])
    claim = {"test": "better", "method": "lift-cam", **DROP}
    found = outcome(monkeypatch, df, than=["grad-cam", "xgrad-cam"], **claim)
    assert found["outcome"] == "fails" and found["estimate"] == pytest.approx(-1) and "1 of 2 comparisons hold" in found["detail"]
    found = outcome(monkeypatch, df, than=["grad-cam", "cam"], **claim)
    assert found["outcome"] == "not run yet" and "no rows of cam" in found["detail"] and np.isnan(found["estimate"])
    assert outcome(monkeypatch, df, than=["grad-cam"], **claim)["outcome"] == "holds"


def test_two_data_sets_with_one_stand_in_count_once(monkeypatch):
    claim = {"test": "better", "method": "lift-cam", "than": "grad-cam", "metric": "average-drop", "dataset": ["cub", "imagenet"], "model": "vgg16"}
    found = outcome(monkeypatch, two(NOISE, NOISE - 1), **claim)
    assert found["outcome"] == "holds" and "comparisons" not in found["detail"]
    assert found["stands_in"] == "mini-birds for cub, mini-vgg for vgg16, mini-birds for imagenet"


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "fails"), (0.5, "holds")])
def test_different(monkeypatch, shift, expected):
    df = two(NOISE, NOISE + shift)
    assert outcome(monkeypatch, df, test="different", method="lift-cam", than="grad-cam", **DROP)["outcome"] == expected


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "holds"), (0.09, "holds"), (0.2, "fails")])
def test_equal_within(monkeypatch, shift, expected):
    df = two(NOISE, NOISE + shift)
    claim = {"test": "equal_within", "method": "lift-cam", "than": "grad-cam", "tolerance": 0.1}
    assert outcome(monkeypatch, df, **claim, **DROP)["outcome"] == expected


@pytest.mark.parametrize(("test", "value", "expected"), [
    ("at_least", 0.5, "holds"), ("at_least", 2.0, "fails"), ("at_least", 1.0, "undecided"),
    ("at_most", 2.0, "holds"), ("at_most", 0.5, "fails"), ("at_most", 1.0, "undecided"),
])  # fmt: skip
def test_thresholds(monkeypatch, test, value, expected):
    df = rows(1 + 0.1 * (NOISE - NOISE.mean()), method="lift-cam")
    assert outcome(monkeypatch, df, test=test, method="lift-cam", value=value, **DROP)["outcome"] == expected


@pytest.mark.parametrize(("value", "expected"), [(2.0, "holds"), (3.0, "holds"), (3.1, "fails")])
def test_ratio(monkeypatch, value, expected):
    positive = 2 + NOISE / 10
    claim = {"test": "ratio_at_least", "method": "lift-cam", "than": "grad-cam", "value": value - 1e-9}
    found = outcome(monkeypatch, two(positive, 3 * positive), **claim, **DROP)
    assert found["outcome"] == expected and found["estimate"] == pytest.approx(3)


def test_time_is_a_metric_of_claims(monkeypatch):
    df = pd.concat([rows([0.1] * 5, seconds=0.5, method="score-cam"), rows([0.1] * 5, seconds=0.01, method="grad-cam")])
    claim = {"test": "better", "method": "grad-cam", "than": "score-cam", "metric": "milliseconds", **PLACE}
    assert outcome(monkeypatch, df, **claim)["estimate"] == pytest.approx(490)


def test_trends(monkeypatch):
    df = pd.concat([rows(NOISE + step, method=f"step {step}") for step in range(3)])
    steps = ["step 0", "step 1", "step 2"]
    assert outcome(monkeypatch, df, test="rising", methods=steps, **DROP)["outcome"] == "holds"
    assert outcome(monkeypatch, df, test="falling", methods=steps, **DROP)["outcome"] == "fails"
    assert outcome(monkeypatch, df, test="rising", methods=[*steps, "step 3"], **DROP)["outcome"] == "not run yet"


def test_settings_are_found_with_defaults_counted(monkeypatch):
    df = pd.concat([rows(NOISE, method="random"), rows(NOISE - 1, method="random", hyper='{"seed": 1}'), rows(NOISE - 2, method="mine", hyper='{"method": "random", "seed": 2}')])
    claim = {"test": "better", "than": {"name": "random", "seed": 0}, **DROP}
    assert outcome(monkeypatch, df, method={"name": "random", "seed": 1}, **claim)["estimate"] == pytest.approx(1)
    assert outcome(monkeypatch, df, method={"name": "random", "seed": 2}, **claim)["estimate"] == pytest.approx(2)
    assert outcome(monkeypatch, df, method={"name": "random", "seed": 9}, **claim)["outcome"] == "not run yet"


def test_rows_without_a_value_give_their_reason(monkeypatch):
    df = two(NOISE, NOISE * np.nan, status="needs a linear head")
    found = outcome(monkeypatch, df, test="better", method="lift-cam", than="grad-cam", **DROP)
    assert found["outcome"] == "not run yet" and "needs a linear head" in found["detail"]


def test_two_models(monkeypatch):
    df = pd.concat([rows(NOISE - 1, method="lift-cam", model="mini-a", target=1), rows(NOISE, method="grad-cam", model="mini-b", target=2)])
    claim = {"test": "better", "method": "lift-cam", "than": "grad-cam", "metric": "average-drop", "dataset": "imagenet"}
    assert outcome(monkeypatch, df, model="mini-a", than_model="mini-b", **claim)["outcome"] == "holds"


def outcomes(*names):
    """Claims as `check` returns them, one for each outcome."""
    one = claims.check(rows([]), "clam").iloc[0].to_dict()
    return pd.DataFrame([one | {"id": name, "says": f"That it {name}.", "outcome": name, "estimate": 0.5, "low": -0.25, "high": 1.0, "n": 24, "networks": 5} for name in names])


def test_show_puts_the_outcome_first_and_saves_it(tmp_path):
    checked = claims.check(table7({"lift-cam": 0.3, "grad-cam": 0.2}), "lift_cam")
    html = claims.show(checked, tmp_path / "claims.csv").content["text/html"]
    saved = pd.read_csv(tmp_path / "claims.csv")
    assert list(saved.columns[:2]) == ["outcome", "claim"] and len(saved) == len(checked)
    assert saved["outcome"].isin(claims.SIGNS.values()).all() and "not run yet" in html
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "claims.parquet"), checked, check_dtype=False)


def test_two_tables_of_claims_on_a_page_have_each_outcome_in_its_own_class(tmp_path):
    first, second = outcomes(*claims.OUTCOMES), outcomes(*claims.OUTCOMES[::-1])
    page = "".join(claims.show(one, tmp_path / "claims.csv").content["text/html"] for one in (first, second))
    classes = {"holds": "xr-holds", "fails": "xr-fails", "undecided": "xr-undecided", "not comparable": "xr-other", "not run yet": "xr-other"}
    found = re.findall(r'<th scope="row"><span class="([\w-]+)">\S ([\w ]+)</span></th><td class="xr-text">That it ([\w ]+)\.', page)
    assert [(name, outcome) for name, outcome, _ in found] == [(classes[name], name) for name in (*claims.OUTCOMES, *claims.OUTCOMES[::-1])]
    assert all(outcome == says for _, outcome, says in found) and not re.search(r"\b(id|style)=", page) and page.count("<table") == 2
    colours = dict(re.findall(r"--(xr-\w+): (#\w+)", Path("book/_static/tables.css").read_text().split("html[data-theme")[0]))
    assert len({colours[name] for name in classes.values()}) == 4


def test_a_claim_says_estimate_images_and_stand_ins(tmp_path):
    text = claims.show(outcomes("holds").assign(stands_in="mini-birds for cub, mini-vgg for vgg16"), tmp_path / "claims.csv").content["text/html"]
    assert '<td>0.5 <span class="xr-interval">(-0.25 to 1)</span></td>' in text and "24 images, 5 networks</span>" in text
    assert text.endswith("Small: 95\u00a0% intervals. Stand-ins: mini-birds for cub, mini-vgg for vgg16.</p>")
