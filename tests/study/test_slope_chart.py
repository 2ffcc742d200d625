"""The slope chart: the printed order left, ours right, and how far our intervals let a place move."""

import numpy as np
import pandas as pd
import pytest
from toy_rows import LIFT, rows, table7

from xai_repro.study import plots, tables
from xai_repro.study.slopes import places

PRINTED = ["LIFT-CAM", "Ablation-CAM", "XGrad-CAM", "Grad-CAM++", "Grad-CAM", "Score-CAM"]  # of table 7, the best first


def compared(means=LIFT, metric="increase-in-confidence", table=7):
    return tables.compare(table7(means, metric=metric), "lift_cam", table, column="/ Average")


def lines(axis):
    """{place left: place right} of the lines between the sides."""
    return {float(line.get_ydata()[0]): float(line.get_ydata()[1]) for line in axis.lines if list(line.get_xdata()) == [0, 1]}


def labels(axis):
    return [tick.get_text() for tick in axis.get_yticklabels()]


def test_the_same_order_has_level_lines():
    figure = plots.slopes(compared())
    assert labels(figure.axes[0]) == PRINTED and lines(figure.axes[0]) == {n: n for n in range(6)}
    assert labels(figure.axes[0].child_axes[0]) == ["26.30", "25.97", "25.44", "24.41", "24.35", "23.38"]
    assert figure.alt == f"Increase in Confidence (%) / Average \u2191: in the paper, from the best, {', '.join(PRINTED)}; ours {', '.join(PRINTED)}."


def test_the_orders_are_told_to_who_does_not_see_them(tmp_path):
    figure = plots.slopes(compared())
    assert plots.show(figure, tmp_path / "a.svg").about["alt"] == figure.alt


def test_the_reversed_order_crosses():
    figure = plots.slopes(compared({name: -value for name, value in LIFT.items()}))
    assert lines(figure.axes[0]) == {n: 5 - n for n in range(6)} and figure.alt.endswith(f"ours {', '.join(PRINTED[::-1])}.")


def test_the_best_is_on_top_where_lower_is_better():
    figure = plots.slopes(compared(metric="average-drop", table=8))
    assert labels(figure.axes[0])[0] == "LIFT-CAM" and lines(figure.axes[0])[0] == 5  # 0.263 is the greatest drop here


def test_a_method_without_a_number_has_no_line():
    figure = plots.slopes(compared({name: value for name, value in LIFT.items() if name != "lift-cam"}))
    assert lines(figure.axes[0]) == {n + 1: n for n in range(5)} and "not run yet: 1 of 6" in [text.get_text() for text in figure.axes[0].texts]
    nothing = plots.slopes(tables.compare(rows([]), "lift_cam", 7, column="/ Average"))
    assert lines(nothing.axes[0]) == {} and nothing.alt.endswith("; ours not run yet.")


def test_places_move_as_far_as_intervals_meet():
    ours = pd.DataFrame({"low": [3.0, 2.5, 1.0], "high": [4.0, 3.5, 2.0]})  # the best first
    assert [places(ours, cell, True) for cell in ours.to_dict("records")] == [(0, 1), (0, 1), (2, 2)]
    assert [places(ours, cell, False) for cell in ours.to_dict("records")] == [(1, 2), (1, 2), (0, 0)]


def test_bands_are_beside_the_places():
    (first, *_), axis = plots.slopes(compared()).axes[0].collections, plots.slopes(compared()).axes[0]
    assert len(axis.collections) == 6 and np.ptp(first.get_paths()[0].vertices[:, 1]) == pytest.approx(0.6) and first.get_paths()[0].vertices[:, 0].min() > 1


def test_every_label_has_a_line_of_its_own(tmp_path):
    """No two labels of a side overlap, and text has nine pixels where the figure is 350 wide."""
    means = dict.fromkeys(LIFT, 0.25)  # all equal: as close as can be
    pooled = tables.compare(table7(means, dataset="imagenet", model="vgg16"), "lift_cam", 7)
    for figure, size in ((plots.slopes(compared(means)), 10), (plots.slopes(pooled), 13)):
        figure.draw_without_rendering()
        for axis in [axis for axis in figure.axes if axis.axison]:
            for side in (axis, *axis.child_axes):
                boxes = sorted((tick.label1 if side is axis else tick.label2).get_window_extent().extents.tolist() for tick in side.yaxis.get_major_ticks())
                spans = sorted((box[1], box[3]) for box in boxes)
                assert all(one[1] <= two[0] + 0.5 for one, two in zip(spans, spans[1:]))
        assert size * 350 / (figure.get_figwidth() * 72) >= 9
    first, second = (plots.save(plots.slopes(compared()), tmp_path / name) for name in ("a.svg", "b.svg"))
    assert first.read_bytes() == second.read_bytes()


def test_metrics_without_a_direction_and_empty_tables():
    assert plots.slopes(tables.compare(rows([]), "lfi_cam", 1)).alt == "Nothing is drawn."
    with pytest.raises(ValueError, match="what `compare` returns"):
        plots.slopes(rows([1.0]))
