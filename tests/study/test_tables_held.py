"""What the tables' numbers are, held against plain arithmetic: directions, denominators, holes, slopes, stand-ins, empty maps."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau
from toy_rows import LIFT, rows, table7

from xai_repro.published import published
from xai_repro.study import resampling, tables


# -- means --------------------------------------------------------------------------------------------------------------------


def test_a_summary_says_images_networks_and_empty_maps():
    df = rows([1.0, 2.0, np.nan, 9.0], list("abca"), run=[0, 0, 1, 1], empty=[True, False, False, False])
    (cell,) = tables.summary(df).to_dict("records")
    assert (cell["mean"], cell["n"], cell["networks"], cell["empty"], cell["undefined"]) == (4.0, 2, 2, 0.25, 1)
    (plain,) = tables.summary(df.drop(columns=["run", "empty"])).to_dict("records")
    assert (plain["mean"], plain["networks"]) == (4.0, 1) and np.isnan(plain["empty"])


def test_networks_that_differ_widen_the_interval():
    values, runs = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 20), np.repeat(range(5), 20)
    alone, five = (tables.summary(rows(values, **facts)).iloc[0] for facts in ({}, {"run": runs}))
    assert alone["mean"] == five["mean"] == 2 and five.high - five.low > 3 * (alone.high - alone.low)


# -- ranks --------------------------------------------------------------------------------------------------------------------


def plain_tau(df, printed, sign, weights):
    """Kendall's tau of means over rows that count as often as their image was drawn."""
    images = sorted(df["image_id"].unique())
    count = df["image_id"].map(dict(zip(images, weights)))
    value = df["value"].fillna(0)
    count = count.where(df["value"].notna(), 0)
    means = {method: (value * count)[part.index].sum() / count[part.index].sum() for method, part in df.groupby("method")}
    return kendalltau(sign * printed, [sign * round(means[method], 6) for method in printed.index]).statistic


@pytest.mark.parametrize("metric, table", [("increase-in-confidence", "7"), ("average-drop", "8")])
def test_the_interval_of_tau_redraws_images_of_all_methods(monkeypatch, metric, table):
    """With holes, and images with two rows: against plain sums, drawn with the same draws."""
    monkeypatch.setattr(tables, "resampled", lambda design, statistic: resampling.resampled(design, statistic, 300))
    rng = np.random.default_rng(1)
    printed = published("lift_cam", table).query("column.str.endswith('Average')").set_index("method")["value"]
    images = [f"i{n:02}" for n in range(12)] + ["i00", "i03"]
    df = pd.concat([rows(value / 100 + rng.normal(0, 0.03, 14), images, method=name, metric=metric) for name, value in printed.items()], ignore_index=True)
    df["target"] = df.groupby(["method", "image_id"]).cumcount()
    df.loc[[3, 20, 41], "value"] = np.nan
    (found,) = tables.rank_agreement(df, "lift_cam", table, column="/ Average").to_dict("records")
    sign = -1 if metric == "average-drop" else 1
    assert found["tau"] == pytest.approx(plain_tau(df, printed, sign, np.ones(12)))
    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=300)
    taus = [plain_tau(df, printed, sign, weights) for weights in drawn]
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(taus, [0.025, 0.975])) and found["low"] < found["high"]
    assert found["n"] == 12 and found["needed"] == pytest.approx(13 / 15)


def test_methods_that_differ_by_rounding_are_tied():
    """Fourteen of fifteen pairs agree and one of ours is a tie: tau-b is 14 / sqrt(15 * 14)."""
    found = tables.rank_agreement(table7(LIFT | {"grad-cam++": LIFT["grad-cam"] + 1e-9}), "lift_cam", 7, column="/ Average").iloc[0]
    assert found["tau"] == pytest.approx(14 / np.sqrt(15 * 14))


def test_simulations_know_the_direction():
    drops = pd.concat([rows([0.3] * 40, method="grad-cam"), rows([0.2] * 40, method="lift-cam")])
    found = tables.simulations(drops, "lift_cam", "8", runs=4).set_index("method")
    assert found.loc["lift-cam", "best here (of 4)"] == 4 and found.loc["grad-cam", "best here (of 4)"] == 0
    printed = published("lift_cam", "8")
    runs = printed[printed.column.str.contains(r"/ \d")].pivot_table(index="method", columns="column", values="value")
    assert found.loc["lift-cam", "best in the paper (of 10)"] == (runs.loc["lift-cam"] == runs.min()).sum() > 5


def test_a_run_of_simulations_is_a_mean():
    """Of rows, not their middle; images dealt out in their order."""
    values = [0.0, 0.0, 0.9, 0.0, 0.6, 0.6]
    df = rows(values, method="lift-cam", metric="increase-in-confidence")
    found = tables.simulations(df, "lift_cam", "7", runs=2).set_index("method").loc["lift-cam"]
    assert (found["smallest run"], found["mean"], found["largest run"]) == pytest.approx((30, 35, 40))


# -- slopes -------------------------------------------------------------------------------------------------------------------


def test_slope_of_means_by_numpy():
    """log10 of the mean over rows against log10 of x by polyfit, from 10 on; runs, several rows of an image, and a hole."""
    rng = np.random.default_rng(2)
    df = pd.concat([rows(np.abs(rng.normal(1, 0.4, 9)) / n + 0.01, list("abcdefgha"), n=n) for n in (1, 10, 100, 1000)], ignore_index=True)
    df.loc[30, "value"] = np.nan
    (found,) = tables.slopes(df, "n").to_dict("records")
    means = df[df["n"] >= 10].groupby("n")["value"].mean()
    assert found["slope"] == pytest.approx(np.polyfit(np.log10(means.index), np.log10(means), 1)[0])
    assert (found["n"], found["networks"]) == (8, 1) and found["low"] < found["slope"] < found["high"]


def test_the_first_point_does_not_bend_the_slope():
    df = pd.concat([rows([value] * 3, n=n) for n, value in ((1, 0.2), (10, 0.1), (100, 0.01))])
    assert tables.slopes(df, "n")["slope"].tolist() == pytest.approx([-1.0])
    with pytest.raises(ValueError, match="two values of it from 10 on"):
        tables.slopes(df[df["n"] < 100], "n")


def test_pairs_of_runs_are_part_of_a_slopes_interval():
    df = pd.concat([rows(np.repeat([1.0, 1.3, 0.8, 1.1, 0.9], 4) ** (n > 10) / n, n=n, run=np.repeat(range(5), 4)) for n in (10, 100)])
    with_runs, without = (tables.slopes(frame, "n").iloc[0] for frame in (df, df.drop(columns="run")))
    assert with_runs["networks"] == 5 and with_runs["slope"] == pytest.approx(without["slope"])
    assert with_runs["high"] - with_runs["low"] > 2 * (without["high"] - without["low"])


# -- tables for the page ------------------------------------------------------------------------------------------------------


def test_a_stand_in_of_several_data_sets_is_shown_once():
    df = pd.concat([
        rows([value] * 30, method=name, dataset=data, model="mini-resnet", metric="increase-in-confidence")
        for data, add in (("mini-birds", 0.0), ("mini-scenes", 0.1)) for name, value in {k: v + add for k, v in LIFT.items()}.items()
    ])  # fmt: skip
    found = tables.side_by_side(tables.compare(df, "lift_cam", "4", column="Increase in Confidence (%)"))
    start = "Increase in Confidence (%) / "
    assert list(found.columns) == [
        "map", f"{start}ImageNet: paper", f"{start}ImageNet: ours", f"{start}ImageNet: 95 %", f"{start}VOC: paper", f"{start}COCO: paper",
        f"{start}VOC, COCO: ours", f"{start}VOC, COCO: 95 %",
    ]  # fmt: skip
    both = pd.concat([df, df[df["dataset"] == "mini-scenes"].assign(dataset="coco2014")])
    assert f"{start}VOC: ours" in tables.side_by_side(tables.compare(both, "lift_cam", "4", column="Increase in Confidence (%)"))


def test_a_method_with_empty_maps_is_not_set_bold():
    df = table7(LIFT | {"score-cam": 0.9}).assign(empty=False)
    df.loc[(df["method"] == "score-cam") & df["image_id"].isin(["i0", "i1", "i2", "i3"]), "empty"] = True
    found = tables.side_by_side(tables.compare(df, "lift_cam", 7, column="/ Average"))
    assert found.loc["Score-CAM", "ours"] == "90.00" and found.loc["LIFT-CAM", "ours"] == "**26.30**"
    found = tables.by_method(tables.summary(df))["increase-in-confidence (%)"]
    assert found["score-cam"] == "90.0 (90.0 to 90.0), 10% empty" and found["lift-cam"].startswith("**26.3**")
    df.loc[df["image_id"] == "i0", "empty"] = False  # less than a tenth
    assert tables.by_method(tables.summary(df)).loc["score-cam", "increase-in-confidence (%)"].startswith("**90.0**")


def test_the_best_against_controls_has_maps():
    df = pd.concat([rows([mean] * 20, method=name, empty=name == "layer-cam") for name, mean in {"grad-cam": 0.3, "layer-cam": 0.2, "random": 0.6}.items()])
    assert tables.against_controls(df)["best"].tolist() == ["grad-cam"]


def test_times_of_the_same_image_in_two_runs_are_two():
    df = rows([0.5] * 4, list("abab"), run=[0, 0, 1, 1]).assign(seconds=[1.0, 2.0, 3.0, 4.0])
    assert tables.timed(df)["value"].tolist() == [1000, 2000, 3000, 4000] and len(tables.timed(df.drop(columns="run"))) == 2
