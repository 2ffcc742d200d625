"""Names beside the points of a chart, none over another and none over a point."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

NEAR, FAR = 6, (14, 22, 32, 44, 60)  # points from the point to its name; from the second on a line leads there
ANGLES = np.radians((0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90))
_POINT = 4  # points around the middle of a point that belong to it
_SAME = 3  # points between two that are drawn as one


def beside(axis, points, names, size=9):
    """Write each name beside its point, the first ones first; one that finds no room is left out. Returns what was written.

    axis: with its place and its limits as they stay. points: [N,2], in units of the axis. Points on one place share a name: "a, b" or "a and 3 more".
    """
    renderer, unit = FigureCanvasAgg(axis.figure).get_renderer(), axis.figure.dpi / 72
    spots = axis.transData.transform(np.reshape(points, (-1, 2)))
    frame, written = axis.get_window_extent(renderer).extents, []
    labels, lines = np.empty((0, 4)), np.empty((0, 2))
    marks = np.hstack([spots - _POINT * unit, spots + _POINT * unit])
    for spot, name in _together(spots, names, _SAME * unit):
        look = {"textcoords": "offset points", "va": "bottom", "fontsize": size, "parse_math": False}
        text = axis.annotate(name, axis.transData.inverted().transform(spot), (0, 0), **look)
        box = text.get_window_extent(renderer)
        text.remove()
        for place in _places(spot, box.width, box.height, unit):
            way = np.linspace(spot, np.clip(spot, place[:2], place[2:]), 100)
            if _inside(place, frame) and not (_over(place, marks) or _over(place, labels) or _holds(labels, way) or _holds(place[None], lines)):
                break
        else:
            continue
        far = np.linalg.norm(way[-1] - spot) > (NEAR + 3) * unit
        line = {"arrowstyle": "-", "color": "0.55", "linewidth": 0.6, "shrinkA": 0, "shrinkB": _POINT} if far else None
        axis.annotate(name, text.xy, (place[:2] - spot) / unit, arrowprops=line, **look)
        labels = np.vstack([labels, place])
        lines = np.vstack([lines, way]) if far else lines
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
    """Boxes (x0, y0, x1, y1) of this size around a spot, the nearest first."""
    for distance in (NEAR, *FAR):
        for across, up in zip(np.cos(ANGLES), np.sin(ANGLES)):
            x, y = spot + distance * unit * np.array([across, up])
            left = x if across > 0.1 else x - width if across < -0.1 else x - width / 2
            low = y if up > 0.6 else y - height if up < -0.6 else y - height / 2
            yield np.array([left, low, left + width, low + height])


def _inside(box, frame):
    return (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()


def _over(box, others):
    """Whether a box lies over one of others [N,4]."""
    return bool(((box[:2] < others[:, 2:]) & (box[2:] > others[:, :2])).all(1).any())


def _holds(boxes, points):
    """Whether one of the boxes [N,4] holds one of the points [M,2]."""
    return bool(((points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])).all(2).any())
