"""Means, intervals, and our numbers beside the printed ones."""

import json

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from scipy.stats import kendalltau
from toy_rows import LIFT, rows, table7

from xai_repro.errors import UnknownName
from xai_repro.published import published
from xai_repro.study import tables


# -- summary --------------------------------------------------------------------------------------------------------


def test_interval_of_a_constant_is_that_constant():
    cell = tables.summary(rows([0.1] * 7)).iloc[0]
    assert (cell["mean"], cell.low, cell.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-15)
    assert cell.low == cell.high == 0.1 and (cell.n, cell.undefined, cell.status) == (7, 0, "ok")


def test_interval_of_coin_tosses_is_the_binomial_one():
    values = np.repeat([0.0, 1.0], 200)
    cell = tables.summary(rows(values)).iloc[0]
    assert cell["mean"] == 0.5
    assert (cell.low, cell.high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.005)


def test_bootstrap_is_repeatable_and_equals_plain_resampling():
    values, images = np.arange(6.0), np.array(list("aabbbc"))
    found = tables.resampled_means(values, images, resamples=5, seed=3)
    draws = np.random.default_rng(3).multinomial(3, [1 / 3] * 3, size=5)
    plain = [np.concatenate([np.tile(values[images == name], k) for name, k in zip("abc", row)]).mean() for row in draws]
    assert found == pytest.approx(plain) and np.array_equal(found, tables.resampled_means(values, images, 5, 3))


def test_rows_of_one_image_are_drawn_together():
    values = np.repeat(np.random.default_rng(1).random(50), 4)
    alone = tables.summary(rows(values)).iloc[0]
    together = tables.summary(rows(values, np.repeat(np.arange(50), 4).astype(str))).iloc[0]
    assert together.n == 50 and (together.high - together.low) > 1.7 * (alone.high - alone.low)


def test_undefined_rows_are_counted_and_left_out():
    some = tables.summary(rows([1.0, np.nan, 3.0])).iloc[0]
    assert (some["mean"], some.n, some.undefined, some.status) == (2.0, 2, 1, "ok")
    none = tables.summary(rows([np.nan, np.nan], status="needs a linear head")).iloc[0]
    assert np.isnan(none["mean"]) and (none.n, none.undefined, none.status) == (0, 2, "needs a linear head")


def test_wrong_column_and_no_rows():
    with pytest.raises(ValueError, match="no column 'methd'"):
        tables.summary(rows([1.0]), by=["methd"])
    assert tables.summary(rows([])).empty


# -- beside the papers ----------------------------------------------------------------------------------------------


def test_compare_in_the_papers_unit_with_ranks_and_stand_ins():
    found = tables.compare(table7(LIFT), "lift_cam", 7, column="/ Average").set_index("method")
    assert np.allclose(found.ours, found.paper) and np.allclose(found.low, found.high) and set(found.unit) == {"%"}
    assert list(found["rank"]) == list(found.paper_rank) == [5, 4, 3, 6, 2, 1]
    assert set(found.stands_in) == {"mini-birds for imagenet, mini-vgg for what the table leaves open"}
    assert set(found.status) == {"ok"} and set(found.n) == {40}


def test_the_papers_own_data_come_before_the_stand_in():
    both = pd.concat([table7(LIFT), table7({m: v / 2 for m, v in LIFT.items()}, dataset="imagenet", model="vgg16")])
    found = tables.compare(both, "lift_cam", 7, column="/ Average")
    assert np.allclose(found.ours, found.paper / 2)


def test_what_was_not_run_stays_in_the_table_and_says_so():
    found = tables.compare(table7({"grad-cam": 0.2}), "lift_cam", 7, column="/ Average").set_index("method")
    assert len(found) == 6 and found.status["grad-cam"] == "ok"
    assert found.status["xgrad-cam"] == "not run yet: no rows" and np.isnan(found.ours["xgrad-cam"]) and np.isnan(found["rank"]["xgrad-cam"])
    assert found["rank"]["grad-cam"] == found.paper_rank["grad-cam"] == 1
    assert tables.compare(rows([]), "lift_cam", 7).ours.isna().all()


def test_a_method_or_metric_that_the_library_lacks_is_named():
    status = tables.compare(rows([]), "lfi_cam", 1).status
    assert status.str.startswith("not run yet: no ").all()


def test_a_cell_that_could_not_run_gives_its_reason():
    df = table7({"grad-cam": np.nan}, status="needs a linear head")
    found = tables.compare(df, "lift_cam", 7, column="/ Average").set_index("method")
    assert found.status["grad-cam"] == "needs a linear head"


def test_several_settings_need_the_papers_label():
    df = pd.concat([rows([0.3] * 4, method="lime-cam"), rows([0.2] * 4, method="*LIME-CAM_512", hyper='{"samples": 512}')])
    found = tables.compare(df, "lift_cam", 5, column="Average Drop (%) / ImageNet").set_index("heading")
    assert found.ours["*LIME-CAM_512"] == pytest.approx(20)
    assert np.isnan(found.ours["*LIME-CAM_10×512"])


def test_seconds_are_compared_as_milliseconds():
    df = rows([0.1] * 4, seconds=0.02, model="vgg19", dataset="imagenet")
    found = tables.compare(pd.concat([df, df.assign(metric="proportion")]), "collection_cam", 2, row="VGG19, (224").set_index("method")
    assert found.ours["grad-cam"] == pytest.approx(20) and found.n["grad-cam"] == 4 and found.stands_in["grad-cam"] == "imagenet for what the table leaves open"


def test_every_printed_table_can_be_compared_with_nothing():
    for paper, table in published()[["paper", "table"]].drop_duplicates().itertuples(index=False):
        found = tables.compare(rows([]), paper, table)
        assert len(found) == len(published(paper, table)) and found.status.str.startswith("not run yet").all()
        assert not tables.side_by_side(found).empty
    assert tables.rank_agreement(rows([]), "clam", 2).tau.isna().all()


@pytest.mark.parametrize(("column", "count"), [("Average", 6), ("Drop (%) / 1", 12), ("10", 6), ("", 66)])
def test_filters_prefer_a_whole_part_of_a_heading(column, count):
    assert len(tables.compare(rows([]), "lift_cam", 8, column=column)) == count


def test_wrong_table_and_filter():
    with pytest.raises(UnknownName, match="table of lift_cam"):
        tables.compare(rows([]), "lift_cam", 70)
    with pytest.raises(ValueError, match="no cell in a row with 'Grad-CAMM'"):
        tables.compare(rows([]), "lift_cam", 7, row="Grad-CAMM")


# -- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "tau"), [(1, 1), (-1, -1)])
def test_rank_agreement_of_the_same_and_the_reversed_order(sign, tau):
    found = tables.rank_agreement(table7({m: sign * v for m, v in LIFT.items()}), "lift_cam", 7, column="/ Average").iloc[0]
    assert (found.tau, found.low, found.high, found.methods, found.n) == pytest.approx((tau, tau, tau, 6, 40))


def test_rank_agreement_respects_the_direction_of_the_metric():
    drops = published("lift_cam", 8).query("column.str.endswith('Average')").set_index("method").value / 100
    found = tables.rank_agreement(table7(dict(drops), metric="average-drop"), "lift_cam", 8, column="/ Average").iloc[0]
    assert found.tau == pytest.approx(1)


def test_shared_noise_does_not_widen_the_interval_of_ranks():
    found = tables.rank_agreement(table7(LIFT, spread=1.0), "lift_cam", 7, column="/ Average").iloc[0]
    assert (found.tau, found.low, found.high) == pytest.approx((1, 1, 1))


def test_rank_agreement_needs_three_methods():
    found = tables.rank_agreement(table7({"grad-cam": 0.1, "lift-cam": 0.2}), "lift_cam", 7, column="/ Average").iloc[0]
    assert np.isnan(found.tau) and found.methods == 2


def test_kendall_equals_scipy():
    rng = np.random.default_rng(0)
    order, orders = rng.integers(0, 4, 7), rng.integers(0, 5, (30, 7))
    assert tables.kendall(order, orders) == pytest.approx([kendalltau(order, one).statistic for one in orders])
    assert np.isnan(tables.kendall(np.arange(3), np.ones((1, 3)))).all()


# -- for the page ---------------------------------------------------------------------------------------------------


def test_side_by_side_marks_the_best_and_keeps_the_papers_decimals():
    found = tables.side_by_side(tables.compare(table7(LIFT | {"score-cam": 0.9}), "lift_cam", 7, column="/ Average"))
    assert list(found.columns) == ["map", "paper", "ours", "95 %"] and set(found["map"]) == {""}
    assert found.loc["LIFT-CAM", "paper"] == "**26.30**" and found.loc["LIFT-CAM", "ours"] == "26.30"
    assert found.loc["Score-CAM", "ours"] == "**90.00**" and found.loc["Grad-CAM", "95 %"] == "24.35 to 24.35"


def test_by_method_shows_percent_and_reasons():
    df = pd.concat([table7({"grad-cam": 0.5, "lift-cam": 0.25}), table7({"cam": np.nan}, status="needs a linear head; VGG has none")])
    found = tables.by_method(tables.summary(df))
    assert found.loc["grad-cam", "increase-in-confidence (%)"] == "**50.0** (50.0 to 50.0)"
    assert found.loc["cam", "increase-in-confidence (%)"] == "needs a linear head"


def test_the_signs_of_maps_are_said():
    cells = {"none": [False] * 20, "one": [True] + [False] * 19, "all": [True] * 20, "silent": [None] * 20}
    df = pd.concat([rows([0.5] * 20, method=name).assign(negative=flags) for name, flags in cells.items()])
    summary = tables.summary(df)
    assert summary["negative"].tolist()[:3] == [0, 0.05, 1] and np.isnan(summary["negative"].iat[3])
    assert tables.by_method(summary)["map"].to_dict() == {"none": "\u2265 0", "one": "\u00b1", "all": "\u00b1", "silent": ""}
    other = df.assign(metric="average-drop-in-deletion", negative=[not flag if flag is not None else None for flag in df["negative"]])
    assert tables.by_method(tables.summary(pd.concat([df, other])))["map"].to_dict() == {"none": "\u00b1", "one": "\u00b1", "all": "\u00b1", "silent": ""}
    compared = tables.compare(table7({"lift-cam": 0.5, "grad-cam": 0.4}).assign(negative=lambda one: one["method"] == "grad-cam"), "lift_cam", 7, column="/ Average")
    assert tables.side_by_side(compared)["map"][["LIFT-CAM", "Grad-CAM", "Score-CAM"]].tolist() == ["\u2265 0", "\u00b1", ""]


def test_style_takes_every_table():
    compared = tables.compare(table7(LIFT), "lift_cam", 7, column="/ Average")
    for table, text in ((compared, "<b>26.30</b>"), (tables.summary(table7(LIFT)), "<b>26.3</b>"), (pd.DataFrame({"m": ["x"], "a": [1.23456]}), "<td>1.23</td>")):
        html = tables.style(table).content["text/html"]
        assert text in html and "style=" not in html and html == tables.style(table).content["text/html"]


def test_save_is_repeatable_and_leaves_nothing_behind(tmp_path):
    compared = tables.compare(table7(LIFT), "lift_cam", 7, column="/ Average")
    path = tables.save(compared, tmp_path / "deep" / "table.csv")
    text = path.read_bytes()
    assert b"LIFT-CAM,,26.30,26.30,26.30 to 26.30" in text and b"**" not in text
    numbers = path.with_suffix(".parquet").read_bytes()
    assert tables.save(compared, path).read_bytes() == text and path.with_suffix(".parquet").read_bytes() == numbers
    assert sorted(p.name for p in path.parent.iterdir()) == ["table.csv", "table.parquet"]
    assert tables.save(pd.DataFrame({"x": [0.123456]}), tmp_path / "plain.csv").read_text() == "x\n0.1235\n"


# -- against knowing nothing, and the time it takes -----------------------------------------------------------------


def test_the_best_method_is_set_beside_the_best_control():
    means = {"grad-cam": 0.3, "layer-cam": 0.2, "random": 0.6, "center": 0.5, "edges": 0.1}
    frame = pd.concat([rows([mean] * 9, method=method) for method, mean in means.items()])
    (found,) = tables.against_controls(frame).to_dict("records")  # average drop: lower is better
    assert (found["best"], found["control"], found["apart"]) == ("layer-cam", "center", "yes")
    (edges,) = tables.against_controls(frame, controls=["edges"]).to_dict("records")
    assert (edges["control"], edges["apart"]) == ("edges", "no")


def test_overlapping_intervals_are_not_apart():
    noise = np.random.default_rng(0).normal(0, 1, 50)
    frame = pd.concat([rows(noise, method="grad-cam"), rows(noise + 0.05, method="random")])
    assert tables.against_controls(frame)["apart"].tolist() == ["no"]


def test_cost_is_the_median_and_a_ratio():
    frame = pd.concat([rows([0.5] * 3, seconds=[0.001, 0.002, 0.009]), rows([0.5] * 3, method="layer-cam", seconds=[0.006, 0.001, 0.1])])
    assert tables.cost(frame)["milliseconds"].tolist() == pytest.approx([2, 6])
    assert tables.cost(frame)["times grad-cam"].tolist() == pytest.approx([1, 3])


def test_the_numbers_stand_beside_the_table(tmp_path):
    compared = tables.compare(table7(LIFT), "lift_cam", 7, column="/ Average")
    path = tables.save(compared, tmp_path / "table7.csv", "What came out.").with_suffix(".parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(path), compared, check_dtype=False)
    about = json.loads(parquet.read_schema(path).metadata[b"xai_repro"])
    assert (about["caption"], about["paper"], about["table"]) == ("What came out.", "lift_cam", "7") and about["provenance"]["versions"]
    both = pd.concat([compared, tables.compare(rows([]), "lift_cam", 8)])
    about = json.loads(parquet.read_schema(tables.save(both, path.with_suffix(".csv")).with_suffix(".parquet")).metadata[b"xai_repro"])
    assert (about["caption"], about["paper"], about["table"]) == ("", None, None)


def test_any_table_has_its_numbers_beside_it(tmp_path):
    odd = pd.DataFrame({"a": [1, "x", None], 2: [[1], [2, 3], []], "c": [0.123456789, np.nan, 1]}, index=pd.Index([*"xyz"], name="who"))
    found = pd.read_parquet(tables.save(odd, tmp_path / "odd.csv").with_suffix(".parquet"))
    assert list(found) == ["who", "a", "2", "c"] and found["a"].tolist()[:2] == ["1", "x"] and found["a"].isna().iat[2] and found["2"].tolist() == ["[1]", "[2, 3]", "[]"] and found["c"].iat[0] == 0.123456789
    assert tables.save(odd[:0], tmp_path / "none.csv").read_text() == "who,a,2,c\n"


def test_show_saves_what_it_displays(tmp_path):
    shown = tables.show(pd.DataFrame({"m": ["x"], "a": [1.23456]}), tmp_path / "new" / "a.csv", "A number.")
    data, metadata = shown._repr_mimebundle_()
    assert (tmp_path / "new" / "a.csv").read_text() == "m,a\nx,1.235\n" and "<td>1.23</td>" in data["text/html"] and "x  1.23" in data["text/plain"]
    about = metadata["xai_repro"]
    assert about["file"] == str(tmp_path / "new" / "a.csv") and (about["kind"], about["caption"]) == ("table", "A number.")
    about = tables.show(tables.compare(table7(LIFT), "lift_cam", 7), tmp_path / "b.csv").about
    assert (about["paper"], about["table"], about["caption"]) == ("lift_cam", "7", "Table 7 as printed, and ours.")


def test_simulations_count_who_is_best_in_how_many_runs():
    names = {f"i{n}": n for n in range(40)}
    better_late = pd.concat([
        rows([0.3] * 40, list(names), method="grad-cam", metric="increase-in-confidence"),
        rows([0.2 if n < 10 else 0.4 for n in names.values()], list(names), method="lift-cam", metric="increase-in-confidence"),
    ])  # fmt: skip
    found = tables.simulations(better_late, "lift_cam", "7", runs=4).set_index("method")
    assert found.loc["lift-cam", "best here (of 4)"] == 3 and found.loc["grad-cam", "best here (of 4)"] == 1
    assert (found.loc["lift-cam", "smallest run"], found.loc["lift-cam", "largest run"]) == pytest.approx((20, 40))
    printed = published("lift_cam", "7")
    lift = printed[printed.column.str.contains(r"/ \d")].pivot_table(index="method", columns="column", values="value")
    assert found.loc["lift-cam", "best in the paper (of 10)"] == (lift.loc["lift-cam"] == lift.max()).sum()
    assert np.isnan(found.loc["score-cam", "mean"])


def test_slope_of_a_power_law():
    frame = pd.concat([rows([c * n**-1.5 for c in (1, 2, 3)]).assign(n=n) for n in (1, 10, 100)])
    (found,) = tables.slopes(frame, "n").to_dict("records")
    assert (found["slope"], found["low"], found["high"], found["n"]) == pytest.approx((-1.5, -1.5, -1.5, 3))
