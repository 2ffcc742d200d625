"""Names beside points: none over another, none over a point, and the first ones are there."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from xai_repro.study.labels import beside


def axis_with(points):
    figure = Figure(figsize=(5, 2.5))
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.plot(*np.transpose(points), "o", markersize=6)
    return axis


def boxes(axis):
    renderer = FigureCanvasAgg(axis.figure).get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in axis.texts}


def words_only(text, renderer):
    """The box of the words, without the line that leads to them."""
    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)


def test_a_crowd_keeps_apart():
    points = np.random.default_rng(0).uniform(0.2, 0.7, (40, 2))
    axis = axis_with(points)
    written = beside(axis, points, [f"method-{i}" for i in range(40)])
    renderer = FigureCanvasAgg(axis.figure).get_renderer()
    found = [words_only(text, renderer) for text in axis.texts]
    assert len(found) == len(written) >= 12 and written[0].startswith("method-0")
    assert not any(a.overlaps(b) for i, a in enumerate(found) for b in found[:i])
    spots = axis.transData.transform(points)
    assert not any(box.contains(*spot) for box in found for spot in spots)
    for text, box in zip(axis.texts, found):  # no line to a name crosses another
        if text.arrow_patch:
            way = np.linspace(spot := axis.transData.transform(text.xy), np.clip(spot, box.min, box.max), 50)
            assert not any(other.padded(-1.5).contains(*point) for other in found if other is not box for point in way)
    frame = axis.get_window_extent(renderer)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in found)


def test_what_finds_no_room_is_left_out_and_the_first_has_the_first_choice():
    axis = axis_with([[0.5, 0.5]] * 2)
    assert beside(axis, [[0.5, 0.5]], ["w" * 200]) == [] and not axis.texts
    assert beside(axis, [[0.5, 0.5], [0.5, 0.6]], ["first", "second"])[0] == "first"
    first = boxes(axis)["first"]
    assert first.x0 > axis.transData.transform((0.5, 0.5))[0]  # to the right, nearest


def test_points_on_one_place_share_a_name():
    points = [[0.2, 0.5], [0.2, 0.5], [0.7, 0.5], [0.7, 0.5], [0.7, 0.501], [0.9, 0.9]]
    assert beside(axis_with(points), points, list("abcdef")) == ["a, b", "c and 2 more", "f"]
