"""plots: what is drawn, refused and written."""

from base64 import b64decode

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

import xai_repro as xr
from xai_repro.study import plots, tables
from toy_rows import LIFT, rows, table7


@pytest.fixture
def two_images():
    return torch.zeros(2, 3, 12, 16)


def maps(*labels):
    return {label: torch.linspace(-1, 1, 2 * 12 * 16).reshape(2, 12, 16) for label in labels}


def test_long_names_break_at_a_hyphen():
    assert plots._in_lines("contrastive-excitation-backprop", 1.4) == "contrastive-\nexcitation-backprop"
    assert plots._in_lines("excitation-backprop", 1.2) == "excitation-\nbackprop"
    assert plots._in_lines("grad-cam", 1.2) == "grad-cam" and plots._in_lines("averyverylongnamewithout", 1.0) == "averyverylongnamewithout"


def test_panel_has_a_row_per_image_and_a_labelled_column_per_method(two_images):
    figure = plots.panel(two_images, maps("grad-cam", "gradient"), titles=["wren", "owl"], signed=["gradient"])
    axes = np.array(figure.axes).reshape(2, 3)
    assert [axis.get_title().replace("\u200b", "") for axis in axes[0]] == ["image", "grad-cam", "gradient"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["wren", "owl"]
    assert all(not axis.get_xticks().size for axis in axes.ravel())


def test_signed_maps_are_symmetric_about_zero(two_images):
    stack = torch.full((2, 12, 16), 0.5)
    stack[0, 0, 0] = -2
    figure = plots.panel(two_images, {"gradient": stack}, signed=["gradient"])
    first, second = figure.axes[1].images[0], figure.axes[3].images[0]
    assert first.get_clim() == (-2, 2) and second.get_clim() == (-0.5, 0.5) and first.get_cmap().name == plots.DIVERGING


def test_unsigned_maps_lie_over_the_grey_image(two_images):
    two_images[:, 0] += 1  # red
    flat = plots.panel(two_images, {"nothing": torch.zeros(2, 12, 16)}).axes[1].images[0].get_array()
    red, green = flat[0, 0, 0], flat[0, 0, 1]
    assert red == pytest.approx(green, abs=1e-3) and np.ptp(flat, axis=(0, 1)).max() == 0
    odd = plots.panel(two_images, {"odd": torch.full((2, 12, 16), float("nan"))})
    assert np.isfinite(odd.axes[1].images[0].get_array()).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": {"cam": torch.zeros(2, 6, 6)}}, r"maps of 'cam' are \[2, 6, 6\]; the images need \[2, 12, 16\]"),
        ({"maps": maps("cam"), "titles": ["one"]}, "1 titles for 2 images"),
        ({"maps": maps("cam"), "signed": ["gradient"]}, "signed names no map: gradient; possible: cam"),
    ],
)
def test_panel_refuses_what_does_not_fit(two_images, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.panel(two_images, **arguments)


def test_bars_have_a_panel_per_metric_and_name_all_methods():
    df = pd.concat([table7(LIFT, spread=0.1), table7({"cam": np.nan}, status="needs a linear head"), rows([0.1, 0.2])])
    figure = plots.bars(tables.summary(df))
    assert [axis.get_title(loc="left") for axis in figure.axes if axis.axison] == ["increase-in-confidence ↑", "average-drop ↓"]
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == {*LIFT} and figure.axes[0].get_xlabel() == "no number: cam"
    assert [axis.get_subplotspec().get_gridspec().ncols for axis in figure.axes[:1]] == [2]
    long = plots.bars(tables.summary(df.replace({"method": {"cam": "contrastive-excitation-backprop"}})))
    assert [axis.get_subplotspec().get_gridspec().ncols for axis in long.axes[:1]] == [1] and "contrastive-excitation-backprop" in long.axes[0].get_xlabel()


@pytest.mark.parametrize(("metric", "order"), [("average-drop", ["lift-cam", "grad-cam", "edges", "random"]), ("proportion", ["grad-cam", "lift-cam", "random", "edges"])])
def test_bars_stand_by_value_and_controls_apart(metric, order):
    numbers = {"random": 0.9, "grad-cam": 0.5, "cam": np.nan, "edges": 0.1, "lift-cam": 0.2}
    found = pd.DataFrame([{"method": name, "metric": metric, "mean": mean, "low": mean, "high": mean} for name, mean in numbers.items()])
    axis = plots.bars(found).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == order
    assert [line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o"] == [0, 1, 2, 3]
    assert [line.get_ydata()[0] for line in axis.lines if line.get_color() == "0.7"] == [1.5]  # between methods and controls
    labels = plots.bars(found.replace({"method": {"cam": "Conv5-3"}})).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["random", "grad-cam", "edges", "lift-cam"]  # layers in their own order


def test_ranks_lie_on_the_diagonal_where_both_agree():
    figure = plots.ranks(tables.compare(table7(LIFT), "lift_cam", 7, column="/ Average"))
    points = [line.get_xydata()[0] for line in figure.axes[0].lines[1:]]
    assert len(points) == 6 and np.array(points)[:, 0].tolist() == np.array(points)[:, 1].tolist()
    nothing = plots.ranks(tables.compare(rows([]), "lift_cam", 7, column="/ Average"))
    assert any("not run yet: 6 of 6" in text.get_text() for text in nothing.axes[0].texts)


def test_curves():
    figure = plots.curves({"a": [0, 1, 2], "b": [2, 1, 0]}, bands={"a": ([0, 0, 1], [1, 2, 3])}, xlabel="pixels", ylabel="p")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"] and figure.axes[0].get_xlabel() == "pixels"
    with pytest.raises(ValueError, match="curve 'a' has 3 values; x has 2"):
        plots.curves({"a": [0, 1, 2]}, x=[0, 1])


def test_the_same_figure_is_the_same_file(tmp_path, two_images):
    first, second = (plots.save(plots.bars(tables.summary(table7(LIFT, spread=0.1))), tmp_path / name) for name in ("a.svg", "b.svg"))
    assert first.read_bytes() == second.read_bytes() and b"<dc:date>" not in first.read_bytes()
    first, second = (plots.save(plots.panel(two_images, maps("cam")), tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes() and first.read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_save_refuses_other_endings(tmp_path):
    with pytest.raises(ValueError, match=r"\.svg .*\.png"):
        plots.save(plots.curves({"a": [0, 1]}), tmp_path / "a.pdf")


def test_matplotlib_settings_are_left_alone(two_images):
    before = dict(mpl.rcParams)
    plots.panel(two_images, maps("cam"))
    assert dict(mpl.rcParams) == before


def test_families_keep_one_family_together_and_put_the_controls_last():
    groups = dict(plots.families(maps("random", "grad-cam", "gradient", "layer-cam")))
    assert {family: list(group) for family, group in groups.items()} == {
        "cam": ["grad-cam", "layer-cam"],
        "gradient": ["gradient"],
        "control": ["random"],
    }
    split = dict(plots.families(maps("grad-cam", "layer-cam", "xgrad-cam"), most=2))
    assert [list(group) for group in split.values()] == [["grad-cam", "layer-cam"], ["xgrad-cam"]]


def test_strip_has_images_above_and_maps_below(two_images):
    figure = plots.strip(two_images, maps("grad-cam")["grad-cam"])
    assert len(figure.axes) == 4


def test_contact_sheet_outlines_every_box():
    samples = xr.load_data("mini-scenes", limit=3)
    figure = plots.contact_sheet(samples, ["a", "b", "c"], columns=2)
    drawn = sum(len(axis.patches) for axis in figure.axes)
    assert drawn == sum(len(sample.boxes) for sample in samples)


def test_boxes_are_outlined_in_every_row(two_images):
    box = torch.tensor([[1, 2, 5, 9]])
    figure = plots.boxes(two_images, {"all": [box, box.repeat(3, 1)], "none": [box[:0], box[:0]]}, [box, box])
    drawn = [len(axis.patches) for axis in figure.axes]
    assert drawn == [2, 4, 1, 1]
    outline = figure.axes[2].patches[0]
    assert (*outline.get_xy(), outline.get_width(), outline.get_height()) == (0.5, 1.5, 4, 7)


def test_show_writes_what_it_displays(two_images, tmp_path):
    shown = plots.show(plots.strip(two_images, maps("grad-cam")["grad-cam"]), tmp_path / "new" / "strip.png")
    assert b64decode(shown.content["image/png"]) == (tmp_path / "new" / "strip.png").read_bytes()


def test_nothing_at_all_is_a_figure_that_says_so(two_images, tmp_path):
    none, flat, table = two_images[:0], torch.zeros(0, 12, 16), tables.summary(table7(LIFT, spread=0.1))
    timed = pd.DataFrame(columns=["model", "size", "method", "ours", "cost model", "paper"])
    empty = [
        plots.panel(none, {"cam": flat}), plots.panel(none, {}), plots.strip(none, flat), plots.boxes(two_images, {}, []),
        plots.boxes(none, {"all": []}, []), plots.contact_sheet([], []),
    ]  # fmt: skip
    for figure in [*empty, plots.curves({}), plots.curves({}, log=True), plots.bars(table[:0]), plots.ratios(timed)]:
        assert plots.save(figure, tmp_path / "a.png").stat().st_size
    assert all(figure.texts[0].get_text() == "nothing to show" for figure in empty)


def test_one_image_and_one_value_are_enough(two_images, tmp_path):
    one, flat = two_images[:1], torch.zeros(1, 12, 16)
    timed = pd.DataFrame({"model": ["a"], "size": [1], "method": ["m"], "ours": [np.nan], "cost model": [np.nan], "paper": [np.nan]})
    figures = [
        plots.panel(one, {}), plots.panel(one, {"cam": flat}, signed=["cam"]), plots.strip(one, flat), plots.ratios(timed),
        plots.boxes(one, {"all": [torch.zeros(0, 4)]}, [torch.zeros(0, 4)]), plots.curves({"a": [1.0]}, log=True),
        plots.curves({"a": [0, 0]}, log=True), plots.curves({"a": [np.nan] * 3}, log=True), plots.curves({"a": []}),
    ]  # fmt: skip
    for figure in figures:
        assert plots.save(figure, tmp_path / "a.png").stat().st_size


def test_maps_without_bounds_are_drawn_without_a_warning(two_images, tmp_path, recwarn):
    stack = maps("cam")["cam"] * float("inf")
    for signed in ([], ["cam"]):
        plots.save(plots.panel(two_images, {"cam": stack}, signed=signed), tmp_path / "a.png")
    assert not recwarn.list


def test_titles_are_no_formulas_and_fit_their_row(two_images, tmp_path):
    long = "$\\bad$ " + "n" * 60
    figure = plots.panel(two_images, {"$x_$": maps("cam")["cam"]}, titles=["$a$ $b", f"{long}\nwren"])
    plots.save(figure, tmp_path / "a.svg")
    first, second = (figure.axes[place].yaxis.label for place in (0, 2))
    assert first.get_text() == "$a$ $b" and first.get_fontsize() == 10 > second.get_fontsize()


def test_an_empty_map_is_marked_and_no_other():
    x, one = torch.zeros(3, 3, 8, 8), torch.zeros(3, 8, 8)
    one[1, 2, 2], one[2, 2, 2] = 1, -1
    for signed, empty in ((["a"], [True, False, False]), ([], [True, False, True])):  # without a sign, evidence against a class is none
        figure = plots.panel(x, {"a": one}, signed=signed)
        assert [[text.get_text() for text in axis.texts] for axis in figure.axes[1::2]] == [["empty"] * found for found in empty]
    drawn = plots.strip(x, one)
    assert [text.get_text() for axis in drawn.axes for text in axis.texts] == ["empty"] * 2


def test_heads_never_collide():
    x, names = torch.zeros(2, 3, 8, 8), ["cam", "mean-features", "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam"]
    figure = plots.panel(x, {name: torch.zeros(2, 8, 8) for name in names})
    figure.draw_without_rendering()
    heads = [axis.title.get_window_extent() for axis in figure.axes[:7]]
    assert all(left.x1 < right.x0 for left, right in zip(heads, heads[1:]))
