"""Names beside the points of a chart, none over another and none over a point."""

from math import cos, radians, sin

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

NEAR, FAR = 6, (14, 22, 32, 44, 60)  # points from the point to its name; from the second on a line leads there
ANGLES = (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90)
_POINT = 4  # points around the middle of a point that belong to it
_SAME = 3  # points between two that are drawn as one


def beside(axis, points, names, size=9):
    """Write each name beside its point, the first ones first; one that finds no room is left out. Returns what was written.

    axis: with its place and its limits as they stay. points: [N,2], in units of the axis. Points on one place share a name: "a, b" or "a and 3 more".
    """
    figure = axis.figure
    renderer, unit = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72
    spots = axis.transData.transform(np.reshape(points, (-1, 2)))
    taken, written = [_around(spot, _POINT * unit) for spot in spots], []
    labels, lines, frame = [], [], axis.get_window_extent(renderer)
    for spot, name in _together(spots, names, _SAME * unit):
        text = axis.annotate(name, axis.transData.inverted().transform(spot), (0, 0), textcoords="offset points", fontsize=size, parse_math=False)
        box = text.get_window_extent(renderer)
        found = next((place for place in _places(spot, box.width, box.height, unit) if _free(place, _line(place, spot), frame, taken + labels, labels, lines)), None)
        text.remove()
        if found is None:
            continue
        away = np.array([found.x0 - spot[0], found.y0 - spot[1]]) / unit
        line = {"arrowstyle": "-", "color": "0.55", "linewidth": 0.6, "shrinkA": 0, "shrinkB": _POINT} if _far(found, spot, unit) else None
        axis.annotate(name, axis.transData.inverted().transform(spot), away, textcoords="offset points", fontsize=size, parse_math=False, arrowprops=line)
        labels.append(found)
        if line:
            lines.append(_line(found, spot))
        written.append(name)
    return written


def _together(spots, names, near):
    """Pairs (place, name), those on one place as one, in the order of the first."""
    left = list(zip(spots, names))
    while left:
        place = left[0][0]
        here = [name for spot, name in left if np.abs(spot - place).max() <= near]
        left = [(spot, name) for spot, name in left if np.abs(spot - place).max() > near]
        yield place, ", ".join(here) if len(here) < 3 else f"{here[0]} and {len(here) - 1} more"


def _places(spot, width, height, unit):
    """Boxes of this size around a place, the nearest first."""
    for distance in (NEAR, *FAR):
        for angle in ANGLES:
            across, up = cos(radians(angle)), sin(radians(angle))
            x, y = spot[0] + distance * unit * across, spot[1] + distance * unit * up
            left = x if across > 0.1 else x - width if across < -0.1 else x - width / 2
            low = y if up > 0.6 else y - height if up < -0.6 else y - height / 2
            yield Bbox.from_bounds(left, low, width, height)


def _free(box, line, frame, taken, labels, lines):
    """Whether a box is inside the chart, over nothing, and neither its line over a name nor it over a line."""
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return inside and not (
        any(box.overlaps(other) for other in taken)
        or any(label.contains(*point) for label in labels for point in line)
        or any(box.contains(*point) for other in lines for point in other)
    )


def _line(box, spot):
    """Places on the way from a spot to the nearest place of a box."""
    return np.linspace(spot, np.clip(spot, (box.x0, box.y0), (box.x1, box.y1)), 20)


def _far(box, spot, unit):
    return np.linalg.norm(_line(box, spot)[-1] - spot) > (NEAR + 3) * unit


def _around(spot, size):
    return Bbox.from_bounds(spot[0] - size, spot[1] - size, 2 * size, 2 * size)
