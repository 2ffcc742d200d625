"""Slope charts: the printed order of a table's methods on the left, ours on the right."""

from textwrap import wrap

from matplotlib.figure import Figure

from xai_repro.study.figures import COLOURS, MARKERS, styled
from xai_repro.study.notes import named
from xai_repro.study.statistics import checked_rows, higher_is_better

ALONE, PAIR = (4.6, 10), (7, 13)  # width in inches and points of text, so that text has nine pixels on a phone: of one panel, of two to a row
_ARROWS = {True: "\u2191", False: "\u2193"}


@styled
def slopes(compared):
    """The printed order of the methods left, ours right, the best on top, a line for each: one panel per group and metric of `tables.compare`.

    The band beside a method says how far our 95 % intervals let its place move: from the methods whose intervals lie wholly above its own to
    those whose lie wholly below. Methods without a number of ours stand in the printed order and have no line. Metrics without a direction have no order and no panel.
    `figure.alt` says the orders in words.
    """
    compared = checked_rows(compared, ["group", "metric", "heading", "printed", "paper", "ours", "low", "high", "rank"], "what `compare` returns")
    parts = [(*key, part[part["paper"].notna()]) for key, part in compared.groupby(["group", "metric"], sort=False) if higher_is_better(key[1]) is not None]
    parts = [part for part in parts if len(part[2])]
    columns = min(2, max(len(parts), 1))
    width, size = ALONE if columns == 1 else PAIR
    names = {heading: "\n".join(wrap(heading, 26 if columns == 1 else 15)) for heading in compared["heading"]}
    line = max((name.count("\n") + 1 for name in names.values()), default=1) * size * 1.25 / 72 + 0.08
    heads = [_head(group, metric, 34 if columns == 1 else 24) for group, metric, _ in parts]
    rows = -(-len(parts) // columns)
    height = sum(line * max(len(part) for *_, part in parts[row * columns : (row + 1) * columns]) for row in range(rows))
    figure = Figure(figsize=(width, height + rows * (size * 1.3 / 72 * max([head.count("\n") + 1 for head in heads], default=1) + 0.35) + 0.1), layout="constrained")
    axes = figure.subplots(max(rows, 1), columns, squeeze=False).ravel()
    for axis in axes[len(parts) :]:
        axis.set_axis_off()
    said = [_draw(axis, part, head, names, higher_is_better(metric), size) for axis, (_, metric, part), head in zip(axes, parts, heads)]
    if not parts:
        figure.text(0.5, 0.5, "nothing to show", ha="center", va="center", color="0.4")
    figure.alt = " ".join(said) or "Nothing is drawn."
    figure.caption = "The printed order left, ours right; the band at a method: the places that our 95 % intervals leave it."
    return figure


def _head(group, metric, width):
    name = group if named(group, metric) or group == metric else f"{metric}: {group}" if group else metric
    return "\n".join(wrap(f"{name}\u00a0{_ARROWS[higher_is_better(metric)]}", width))


def _draw(axis, part, head, names, direction, size):
    """One panel; returns what it shows in words."""
    printed = part.sort_values("paper", ascending=not direction, kind="stable").reset_index(drop=True)
    ours = printed[printed["ours"].notna()].assign(rounded=lambda some: some["ours"].round(6)).sort_values("rounded", ascending=not direction, kind="stable")
    colours = {heading: number for number, heading in enumerate(names)}
    step = 0.5 / max(len(ours), 1)
    axis.set(xlim=(-0.04, 1.54), ylim=(len(printed) - 0.5, -0.5), xticks=[0, 1], yticks=range(len(printed)))
    axis.set_yticklabels([names[heading] for heading in printed["heading"]], fontsize=size, parse_math=False)
    axis.set_xticklabels(["paper", "ours"], fontsize=size)
    axis.tick_params(length=0, pad=3)
    axis.xaxis.tick_top()
    axis.spines[:].set_visible(False)
    axis.set_title(head, fontsize=size, loc="left", parse_math=False)
    for place, (before, cell) in enumerate(ours.iterrows()):
        number, at = colours[cell["heading"]], 1.06 + step * place
        colour, marker = COLOURS[number % len(COLOURS)], _marker(number)
        axis.plot([0, 1], [before, place], color=colour, marker=marker, markersize=6, linewidth=1.8, clip_on=False)
        first, last = places(ours, cell, direction)
        axis.fill_between([at, at + 0.7 * step], first - 0.3, last + 0.3, color=colour, alpha=0.3, linewidth=0)
        axis.plot([at, at + 0.7 * step], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
    for before, cell in printed[printed["ours"].isna()].iterrows():
        axis.plot(0, before, _marker(colours[cell["heading"]]), color="0.5", markersize=6, clip_on=False)
    digits = max((len(text.partition(".")[2].rstrip("%*")) for text in part["printed"]), default=1)
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(ours)), [f"{value:.{digits}f}" for value in ours["ours"]], fontsize=size)
    right.tick_params(length=0, pad=3)
    right.spines[:].set_visible(False)
    if missing := len(printed) - len(ours):
        axis.text(0.77, len(printed) - 0.5, f"not run yet: {missing} of {len(printed)}", ha="center", va="bottom", fontsize=size, color="0.35")
    listed = [", ".join(some["heading"]) for some in (printed, ours)]
    return f"{' '.join(head.split())}: in the paper, from the best, {listed[0]}; ours {listed[1] or 'not run yet'}."


def _marker(number):
    """Another marker where colours begin again."""
    return MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def places(ours, cell, direction):
    """The first and last place (from 0) that a method may take as its interval and those of the others lie apart or not."""
    above, below = (ours["low"] > cell["high"]).sum(), (ours["high"] < cell["low"]).sum()
    return (above, len(ours) - 1 - below) if direction else (below, len(ours) - 1 - above)
