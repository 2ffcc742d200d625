"""Tables as a page has them: small ones, with the same units and digits down a column, and what they share said once."""

import numpy as np
import pandas as pd
import pytest
from toy_rows import LIFT, rows, table7

from xai_repro.published import published
from xai_repro.study import layout, tables
from xai_repro.study.notes import counted, listed, standing_in


def table4():
    """Rows for LIFT-CAM's table 4 on both drawn data sets."""
    return pd.concat([
        rows([value + add] * 30, method=name, dataset=data, model="mini-resnet", metric=metric) for metric in ("increase-in-confidence", "average-drop")
        for data, add in (("mini-birds", 0.0), ("mini-scenes", 0.1)) for name, value in LIFT.items()
    ])  # fmt: skip


# -- beside the papers ------------------------------------------------------------------------------------------------


def test_a_printed_table_has_each_of_its_cells_in_its_place():
    for _, cells in published().groupby(["paper", "table"], sort=False):
        (small,), note = layout.as_printed(cells)
        heads = [" / ".join([*small.title.split(" / ")] * bool(small.title) + [*column]) for column in small.columns]
        found = {(row, head): text for row, texts in small.rows for head, text in zip(heads, texts, strict=True) if text}
        assert found == {(one.row, one.column): f"**{one.printed}**" if one.mark == "best" else one.printed for one in cells.itertuples()}
        assert all(remark in note for remark in cells["note"].unique()) and bool(note) == (cells["note"] != "").any()


def test_what_printed_columns_share_is_said_once_and_remarks_name_their_cells():
    (small,), note = layout.as_printed(published("lift_cam", "10"))
    assert small.title == "Proportion (%)" and small.columns[0] == ("1",)
    assert note.endswith("typo of the paper for 54.92 (Ablation-CAM, Proportion (%) / 1).")
    (small,), note = layout.as_printed(published("lift_cam", "4"))
    assert small.title == "" and small.columns[0] == ("Increase in Confidence (%)", "ImageNet")
    assert note == "Our remarks: one printed cell for both (Ablation-CAM; LIFT-CAM)."
    assert layout.as_printed(published("lift_cam", "5"))[1] == "Our remarks: two table rows run together in the text conversion."  # in four rows


def test_a_metric_has_a_table_of_its_own():
    smalls, note = layout.small(tables.compare(table4(), "lift_cam", "4"))
    assert [one.title for one in smalls] == [
        "Increase in Confidence (%), higher is better", "Average Drop (%), lower is better", "Average Drop in Deletion (%), higher is better",
    ]  # fmt: skip
    first = smalls[0]
    assert first.columns == [("ImageNet", "paper"), ("ImageNet", "ours"), ("VOC", "paper"), ("COCO", "paper"), ("VOC, COCO", "ours")]
    assert dict(first.rows)["LIFT-CAM"] == ["41.0", "**26.3** (26.3 to 26.3)", "**50.9**", "**52.6**", "**36.3** (36.3 to 36.3)"]
    assert dict(smalls[2].rows)["LIFT-CAM"][1] == "not run yet"
    assert note == "Stand-ins: mini-birds for imagenet, mini-resnet for resnet50, mini-scenes for voc2007 and coco2014. 30 images, 1 network. Small: 95\u00a0% intervals."


def test_metrics_of_one_group_each_share_a_table():
    smalls, note = layout.small(tables.compare(rows([]), "collection_cam", "3", row="VGG19"))
    assert [len(one.columns) for one in smalls] == [4, 6] and {one.title for one in smalls} == {"VGG19"}
    assert [column[0] for column in smalls[1].columns[::2]] == ["Deletion (%) \u2193", "Insertion (%) \u2191", "Overall (%) \u2191"]
    assert note == "\u2191: higher is better, \u2193: lower."


def test_long_metrics_are_divided_evenly():
    smalls, _ = layout.small(tables.compare(rows([]), "lift_cam", "7"))  # eleven columns
    assert [len(one.columns) // 2 for one in smalls] == [3, 4, 4] and layout.divided([1, 2, 3, 4, 5], 4) == [[1, 2], [3, 4, 5]]


def test_every_printed_number_is_in_a_small_table_once():
    for paper, table in published()[["paper", "table"]].drop_duplicates().itertuples(index=False):
        compared = tables.compare(rows([]), paper, table)
        smalls, _ = layout.small(compared)
        shown = [text.strip("*") for one in smalls for _, texts in one.rows for column, text in zip(one.columns, texts) if column[-1] == "paper" and text]
        cells = compared.drop_duplicates(["group", "metric", "heading"], keep="last")
        assert sorted(shown) == sorted(text.strip("*") for text in cells["printed"] if text), (paper, table)
        for one in smalls:
            assert all(len(texts) == len(one.columns) for _, texts in one.rows)


def test_a_table_that_does_not_name_its_metric_gets_it_said():
    (one,), _ = layout.small(tables.compare(table7(LIFT, metric="cosine-to"), "lift_cam", "2"))
    assert one.title.startswith("cosine-to: ") and one.title.endswith(", higher is better")


# -- a summary --------------------------------------------------------------------------------------------------------


def several():
    return pd.concat([
        rows([value], method=method, model=model, metric=metric) for model in ("mini-vgg", "mini-resnet") for metric in ("average-drop", "cosine-to", "milliseconds")
        for method, value in (("grad-cam", 0.5), ("layer-cam", 0.25), ("score-cam", 0.75))
    ])  # fmt: skip


def test_a_network_has_a_table_of_its_own_and_shares_are_in_percent():
    smalls, note = layout.small(tables.summary(several()))
    assert [one.title for one in smalls] == ["mini-birds, mini-vgg", "mini-birds, mini-resnet"]
    assert smalls[0].columns == [("average-drop (%) \u2193",), ("cosine-to \u2191",), ("milliseconds \u2193",)]
    assert dict(smalls[0].rows)["layer-cam"] == ["**25.0** (25.0 to 25.0)", "0.250 (0.250 to 0.250)", "**0.250** (0.250 to 0.250)"]
    assert note == "1 image, 1 network. Small: 95\u00a0% intervals. \u2191: higher is better, \u2193: lower."


def test_methods_without_a_number_are_named_once():
    none = rows([np.nan], method="cam", status="needs a linear head; VGG has none")
    smalls, note = layout.small(tables.summary(pd.concat([several(), none, none.assign(metric="cosine-to")])))
    assert "cam" not in dict(smalls[0].rows) and note.endswith("No number: cam (needs a linear head).")
    (one,), _ = layout.small(tables.summary(none))
    assert one.rows == [("cam", ["needs a linear head"])]


def test_many_metrics_are_divided():
    many = pd.concat([rows([0.5], metric=f"m{n}") for n in range(7)])
    assert [len(one.columns) for one in layout.small(tables.summary(many))[0]] == [3, 4]


def test_networks_with_methods_of_their_own_share_a_table():
    own = pd.concat([rows([0.5], method=f"{model}-cam", model=model) for model in ("mini-lfi", "mini-abn")])
    (one,), _ = layout.small(tables.summary(own))
    assert one.title == "mini-birds" and [name for name, _ in one.rows] == ["mini-lfi, mini-lfi-cam", "mini-abn, mini-abn-cam"]


def test_signs_come_last():
    signed, unsigned = (rows([0.5], method=name).assign(negative=flag) for name, flag in (("lrp", True), ("cam", False)))
    (one,), _ = layout.small(tables.summary(pd.concat([signed, unsigned])))
    assert one.columns[-1] == ("map",) and [texts[-1] for _, texts in one.rows] == ["\u00b1", "\u2265 0"]


def test_signs_that_are_the_same_are_said_once():
    for flag, text in ((True, "Every method has maps with negative values."), (False, "No map has a negative value.")):
        (one,), note = layout.small(tables.summary(rows([0.5]).assign(negative=flag)))
        assert one.columns == [("average-drop (%) \u2193",)] and len(one.rows[0][1]) == 1 and note.endswith(text)
    compared = tables.compare(table7({"lift-cam": 0.5}).assign(negative=False), "lift_cam", 7, column="/ Average")
    (one,), note = layout.small(compared)
    assert one.columns == [("paper",), ("ours",)] and note.endswith("No map has a negative value.")


# -- any other --------------------------------------------------------------------------------------------------------


def only(frame):
    (one,), note = layout.small(frame)
    return one, note


def test_an_interval_goes_with_its_number_and_constants_are_said_once():
    frame = pd.DataFrame({"part": ["beak", "tail"], "effect": [0.04079, 1.263], "low": [-0.021, 0.68], "high": [0.1, 1.8], "flips": [0, 1], "n": 24, "networks": 5})
    one, note = only(frame)
    assert (one.corner, one.columns) == ("part", [("effect",), ("flips",)])
    assert one.rows == [("beak", ["0.04 (-0.02 to 0.10)", "0"]), ("tail", ["1.26 (0.68 to 1.80)", "1"])]
    assert note == "24 images, 5 networks. Small: 95\u00a0% intervals."


def test_means_of_shares_are_percent_and_other_numbers_are_not():
    found = pd.concat([rows([mean] * 9, method=method, metric=metric) for metric in ("average-drop", "deletion") for method, mean in {"grad-cam": 0.3, "random": 0.6}.items()])
    one, _ = only(tables.against_controls(found))
    assert one.columns == [("best",), ("mean (%)",), ("control",), ("control mean (%)",), ("apart",)] and one.title == "mini-birds, mini-vgg"
    assert one.rows[0] == ("average-drop", ["grad-cam", "30.0 (30.0 to 30.0)", "random", "60.0 (60.0 to 60.0)", "yes"])
    plain, _ = only(tables.against_controls(pd.concat([found, found.assign(metric="cosine-to")])))
    assert ("mean",) in plain.columns and plain.rows[0][1][1] == "0.300 (0.300 to 0.300)"


@pytest.mark.parametrize(("numbers", "shown"), [
    ([0.5, 0.25, np.nan], ["0.500", "0.250", ""]), ([1.0, 24.0], ["1", "24"]), ([44.98, 19.0], ["45.0", "19.0"]), ([1565.0, 0.002], ["1565", "0.002"]), ([True, False], ["yes", "no"]),
    ([3, 1500], ["3", "1500"]), ([939.04, 0.109], ["939.04", "0.11"]), ([16.4, 0.0461], ["16.40", "0.05"]), ([1565.4, 744.4], ["1565", "744"]),
])  # fmt: skip
def test_digits_are_those_of_the_column(numbers, shown):
    one, _ = only(pd.DataFrame({"a": [*"xyz"[: len(numbers)]], "b": numbers}))
    assert [text for _, (text,) in one.rows] == shown


def test_data_sets_and_networks_with_many_rows_are_apart():
    frame = pd.DataFrame([{"dataset": "d", "model": model, "method": str(n), "ms": n, "times": n} for model in "ab" for n in range(6)])
    smalls, _ = layout.small(frame)
    assert [one.title for one in smalls] == ["d, a", "d, b"] and smalls[1].columns == [("ms",), ("times",)] and len(smalls[1].rows) == 6
    assert [one.title for one in layout.small(frame[::3])[0]] == [""]


def test_nothing_at_all_has_headings():
    assert only(pd.DataFrame({"a": [], "b_c": []}))[0].columns == [("b c",)]
    assert only(tables.summary(rows([])))[0].rows == []


# -- what is said once ------------------------------------------------------------------------------------------------


def test_stand_ins_are_merged():
    texts = pd.Series(["mini-birds for imagenet, mini-vgg for vgg16", "mini-scenes for voc2007, mini-vgg for vgg16", "mini-scenes for coco2014", "", None])
    assert standing_in(texts) == "Stand-ins: mini-birds for imagenet, mini-vgg for vgg16, mini-scenes for voc2007 and coco2014."
    assert standing_in(pd.Series([""])) == "" and listed([]) == "" and listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"


def test_counts_are_a_span():
    assert counted(pd.DataFrame({"n": [20, 24], "networks": [1, 1]})) == "20 to 24 images, 1 network." and counted(pd.DataFrame({"a": [1]})) == ""
