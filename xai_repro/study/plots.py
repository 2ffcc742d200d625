"""Figures: (data) -> matplotlib Figure, one style, nothing read and nothing written."""

from textwrap import fill

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from xai_repro.data import denormalize, View
from xai_repro.registry import method_info, methods as known_methods
from xai_repro.study.figures import COLOURS, MARKERS, save, show, styled  # noqa: F401 - save and show are part of plots to callers
from xai_repro.study.slopes import slopes  # noqa: F401 - part of plots to callers
from xai_repro.study.statistics import EMPTY, higher_is_better, is_control

HEAT, DIVERGING = "inferno", "RdBu_r"  # perceptually uniform; zero in the middle, in white
WIDTH = 7
GREY = np.array([0.299, 0.587, 0.114])


@styled
def panel(images, maps, titles=None, signed=(), view=View()):
    """Images and their maps: one row per image, the image first, then one labelled column per method.

    images: [B,3,H,W] as the models take them. maps: label -> [B,H,W], raw or scaled. titles: one per row.
    signed: labels of the maps whose negative values mean evidence against the class; these are drawn in diverging
    colours, symmetric about zero. The others are drawn as heat over the grey image, from the map's least to its
    greatest value, negative values as none. view: that of the model, by which its images become colours again.
    Raises ValueError for maps that do not fit the images, titles of another number, or a signed label without a map.
    """
    rows, height, width = images.shape[0], *images.shape[-2:]
    for label, stack in maps.items():
        if tuple(stack.shape) != (rows, height, width):
            raise ValueError(f"maps of '{label}' are {list(stack.shape)}; the images need {[rows, height, width]}")
    if titles is not None and len(titles) != rows:
        raise ValueError(f"{len(titles)} titles for {rows} images")
    if missing := [label for label in signed if label not in maps]:
        raise ValueError(f"signed names no map: {', '.join(missing)}; possible: {', '.join(maps)}")
    if not rows:
        return _nothing()
    from seaborn import despine  # here, since its import takes a second

    colours = view.colours(images.detach().cpu().float()).permute(0, 2, 3, 1).numpy()
    grey = colours @ GREY
    columns = 1 + len(maps)
    tile = max(1.0, min(1.9, WIDTH / columns))
    figure = Figure(figsize=(tile * columns, tile * rows * height / width + 0.55), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    axes = figure.subplots(rows, columns, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        axis.set(xticks=[], yticks=[])
        despine(ax=axis, left=True, bottom=True)
        label = ["image", *maps][column]
        if row == 0:
            lines = _in_lines(label, tile)
            axis.set_title(lines.replace("-", "-\u200b"), fontsize=_fitting(max(lines.splitlines(), key=len), tile), parse_math=False)
        if column == 0:
            axis.imshow(colours[row])
            title = titles[row] if titles is not None else ""
            size = min(10, _fitting(max(title.splitlines() or [""], key=len), tile * height / width))
            axis.set_ylabel(title, fontsize=size, parse_math=False)  # a `$` in the name of a file is a `$`
        else:
            _draw_map(axis, grey[row], maps[label][row], label in signed)
    return figure


def families(maps, most=6):
    """Maps {method: [B,H,W]} sorted into groups of at most `most` of one family: pairs (name of the group, maps)."""
    groups = {}
    for name in sorted(maps, key=lambda name: method_info(name).family == "control"):  # the controls last
        groups.setdefault(method_info(name).family, {})[name] = maps[name]
    for family, group in groups.items():
        names = list(group)
        for start in range(0, len(names), most):
            part = f" {start // most + 1}" if len(names) > most else ""
            yield f"{family}{part}", {name: group[name] for name in names[start : start + most]}


@styled
def strip(images, maps, signed=False, view=View()):
    """Images above, the maps of one method below: images [B,3,H,W] as the models take them, maps [B,H,W]; view: as for `panel`."""
    if not len(images):
        return _nothing()
    figure = Figure(figsize=(WIDTH, 2 * WIDTH / len(images) + 0.1), layout="constrained")
    colours = view.colours(images.detach().cpu().float()).permute(0, 2, 3, 1).numpy()
    for column, axes in enumerate(figure.subplots(2, len(images), squeeze=False).T):
        axes[0].imshow(colours[column])
        _draw_map(axes[1], colours[column] @ GREY, maps[column], signed)
        for axis in axes:
            axis.set_axis_off()
    return figure


@styled
def contact_sheet(samples, titles, columns=4):
    """Samples with their titles, the outline of what is annotated drawn over a second copy of each."""
    if not len(samples):
        return _nothing()
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(WIDTH, rows * (2 * WIDTH / columns + 0.35)), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (sample, title) in enumerate(zip(samples, titles)):
        row, column = 2 * (number // columns), number % columns
        image = denormalize(sample.image).permute(1, 2, 0).numpy()
        axes[row, column].imshow(image)
        axes[row, column].set_title(title, fontsize=_fitting(title, WIDTH / columns))
        axes[row + 1, column].imshow(image * (0.25 + 0.75 * (sample.mask >= 0).numpy()[..., None]))
        _outline(axes[row + 1, column], sample.boxes[:, 1:], "white", 1.5)
    return figure


def _nothing():
    """The figure without images: it says so, and a table that has turned out empty stops no page."""
    figure = Figure(figsize=(WIDTH, 0.5))
    figure.text(0.5, 0.5, "nothing to show", ha="center", va="center", color="0.4")
    return figure


def _draw_map(axis, grey, values, signed):
    values = torch.as_tensor(values).detach().cpu().float().nan_to_num().double().numpy()  # room for the span of the largest
    if not (values if signed else values.clip(min=0)).any():
        axis.text(0.5, 0.5, "empty", transform=axis.transAxes, ha="center", va="center", fontsize=10, bbox={"facecolor": "white", "edgecolor": "none", "pad": 2})
    if signed:
        bound = np.abs(values).max() or 1
        axis.imshow(values, cmap=DIVERGING, vmin=-bound, vmax=bound)
        return
    heat = values.clip(min=0)
    heat = (heat - heat.min()) / ((heat.max() - heat.min()) or 1)
    coloured = mpl.colormaps[HEAT](heat)[..., :3]
    share = 0.25 + 0.6 * heat[..., None]  # the image shows through where the map says little
    axis.imshow((1 - share) * grey[..., None] + share * coloured)


def _in_lines(label, inches):
    """A label too long for its column in two lines, broken at the hyphen nearest its middle."""
    hyphens = [i + 1 for i, letter in enumerate(label) if letter == "-"]
    if not hyphens or 0.58 * len(label) * 8 <= inches * 72:
        return label
    middle = min(hyphens, key=lambda i: abs(2 * i - len(label)))
    return f"{label[:middle]}\n{label[middle:]}"


def _fitting(label, inches):
    """Font size at which a line fits into so many inches, between 7 and 12 points."""
    return float(np.clip(0.95 * inches / max(_inches(label, 1), 1e-3), 7, 12))


@styled
def boxes(images, proposed, true, view=View()):
    """Images with their true boxes in white and proposed ones in colour, one row per way of proposing.

    images: [B,3,H,W] as the models take them. proposed: label -> a list of boxes [N,4] (x0, y0, x1, y1; half-open) per image;
    true: such a list. view: as for `panel`.
    """
    if not proposed or not len(images):
        return _nothing()
    figure = Figure(figsize=(WIDTH, len(proposed) * (WIDTH / len(images) + 0.3)), layout="constrained")
    colours = view.colours(images.detach().cpu().float()).permute(0, 2, 3, 1).numpy()
    for number, ((label, found), axes) in enumerate(zip(proposed.items(), figure.subplots(len(proposed), len(images), squeeze=False))):
        axes[0].set_title(label, loc="left", fontsize=11)
        for axis, picture, ours, theirs in zip(axes, colours, found, true):
            axis.imshow(picture)
            axis.set_axis_off()
            _outline(axis, theirs, "white", 3)
            _outline(axis, ours, COLOURS[1], 2)
    return figure


def _outline(axis, boxes, colour, width):
    """Boxes [N,4] (x0, y0, x1, y1; half-open, in pixels) over an image."""
    for x0, y0, x1, y1 in boxes.tolist():
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))


@styled
def ratios(compared):
    """Times as multiples of Grad-CAM's on a logarithmic axis: measured, by the cost model, and the paper's, one panel per setting.

    compared: the result of `timing.table`.
    """
    parts = list(compared.groupby(["model", "size"], sort=False))
    methods = list(dict.fromkeys(compared["method"]))
    figure, axes = _grid(len(parts), 0.36 * len(methods) + 1.3)
    for axis, ((model, size), part) in zip(axes, parts):
        for number, column in enumerate(("ours", "cost model", "paper")):
            places = [methods.index(method) for method in part["method"]]
            axis.plot(part[column], places, MARKERS[number], color=COLOURS[number], markersize=7, label=column, alpha=0.85)
        axis.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
        axis.set(xscale=_scale(part[["ours", "cost model", "paper"]]))
        axis.set_title(f"{model}, {size} px", fontsize=11, loc="left")
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    if parts:
        axes[0].legend(frameon=False, fontsize=9, loc="upper right")
    figure.supxlabel("time / Grad-CAM's time", fontsize=11)
    return figure


@styled
def bars(summarised):
    """Means with 95 % intervals: one panel per metric, one line per method, the best in colour, though none with a tenth of its maps empty.

    summarised: the result of `tables.summary`, of one data set and model or of several (then one panel each). Methods stand by their value, the
    best first, and controls apart below them; labels that name no method stay in the order in which they came. Those without a number are named below.
    """
    keys = [key for key in ("dataset", "model") if key in summarised and summarised[key].nunique() > 1]
    parts = list(summarised.groupby([*keys, "metric"], sort=False))
    columns = 1 if max(map(_inches, summarised["method"].unique()), default=0) > 0.2 * WIDTH else 2  # long names leave half a page no room for intervals
    figure, axes = _grid(len(parts), 0.21 * summarised["method"].nunique() + 1, columns)
    for axis, (key, part) in zip(axes, parts):
        direction = higher_is_better(part["metric"].iat[0])
        part = _by_value(part, direction)
        without, part = list(part.loc[part["mean"].isna(), "method"]), part[part["mean"].notna()]
        full = part["mean"][~(part["empty"] >= EMPTY)] if "empty" in part else part["mean"]
        best = None if direction is None else full.max() if direction else full.min()
        for place, cell in enumerate(part.to_dict("records")):
            colour = COLOURS[1] if cell["mean"] == best and not cell.get("empty", 0) >= EMPTY else COLOURS[0]
            axis.plot([cell["low"], cell["high"]], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
            axis.plot(cell["mean"], place, "o", color=colour, markersize=6)
        methods, controls = list(part["method"]), sum(map(is_control, part["method"]))
        if 0 < controls < len(methods):
            axis.axhline(len(methods) - controls - 0.5, color="0.7", linewidth=1)
        arrow = {True: " \u2191", False: " \u2193", None: ""}[direction]
        axis.set_title("\n".join([*key[:-1], f"{key[-1]}{arrow}"]), fontsize=11, loc="left")
        axis.set_xlabel(fill(f"no number: {', '.join(without)}", 90 // columns) if without else "", fontsize=10, loc="left")
        axis.set(yticks=range(len(methods)), yticklabels=methods, ylim=(max(len(methods), 1) - 0.5, -0.5))
        axis.locator_params(axis="x", nbins=6 // columns)
        axis.grid(color="0.93")
        axis.set_axisbelow(True)
    return figure


def _inches(label, points=11):
    """Width of a line of text."""
    width = TextPath((0, 0), label.replace("$", "S") or "x", size=100).get_extents().width  # a `$` would begin a formula
    return width / 100 * points / 72


def _by_value(part, direction):
    """The rows of a panel, the best first, the controls last; as they are, where a label is no method's name."""
    if not part["method"].isin(known_methods()).all():
        return part
    order = part.assign(control=part["method"].map(is_control), merit=-part["mean"] if direction is False else part["mean"])
    return order.sort_values(["control", "merit"], ascending=[True, False], kind="stable")


@styled
def ranks(compared):
    """The paper's rank of each method against ours, one panel per group; on the diagonal both agree.

    compared: the result of `tables.compare`. Methods without a number of ours are named below the panel.
    """
    parts = list(compared.groupby(["group", "metric"], sort=False))
    headings = list(dict.fromkeys(compared["heading"]))
    figure, axes = _grid(len(parts), 3.3)
    for axis, ((group, metric), part) in zip(axes, parts):
        both = part.dropna(subset=["paper_rank", "rank"])
        size = max(len(both), 1)
        axis.plot([0.5, size + 0.5], [0.5, size + 0.5], color="0.8", zorder=0)
        for cell in both.to_dict("records"):
            number = headings.index(cell["heading"])
            axis.plot(cell["paper_rank"], cell["rank"], MARKERS[number % 8], color=COLOURS[number % 8], markersize=8, clip_on=False)
            axis.annotate(cell["heading"], (cell["paper_rank"], cell["rank"]), xytext=(6, -3), textcoords="offset points", fontsize=9)
        axis.set(xlim=(0.5, size + 0.5), ylim=(size + 0.5, 0.5), xlabel="rank in the paper", ylabel="rank here")
        axis.set_xticks(range(1, int(size) + 1))
        axis.set_yticks(range(1, int(size) + 1))
        axis.set_title(f"{group}\n{metric}" if group != metric else metric, fontsize=11, loc="left")
        if missing := len(part) - len(both):
            axis.text(0.5, 0.02, f"not run yet: {missing} of {len(part)}", transform=axis.transAxes, ha="center", fontsize=9, color="0.4")
    return figure


def with_bands(summaries):
    """Lines and bands as `curves` takes them, from summaries {label: result of `tables.summary`} whose rows are in order."""
    lines = {label: one["mean"].to_numpy() for label, one in summaries.items()}
    return lines, {label: (one["low"].to_numpy(), one["high"].to_numpy()) for label, one in summaries.items()}


@styled
def curves(lines, x=None, bands=None, xlabel="", ylabel="", log=False):
    """Curves on common axes, told apart by colour and by marker.

    lines: label -> [N] values. x: [N] positions, by default 0 to 1. bands: label -> ([N] low, [N] high), shaded.
    log: logarithmic axes.
    Raises ValueError for a curve whose length is not that of x.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, (label, values) in enumerate(lines.items()):
        values = np.asarray(values, float)
        places = np.linspace(0, 1, len(values)) if x is None else np.asarray(x, float)
        if places.shape != values.shape:
            raise ValueError(f"curve '{label}' has {len(values)} values; x has {len(places)}")
        colour, marker = COLOURS[number % 8], MARKERS[number % 8]
        axis.plot(places, values, color=colour, marker=marker, markevery=max(1, len(values) // 8), label=label, linewidth=2, linestyle="-" if number < 8 else "--")
        if bands and label in bands:
            axis.fill_between(places, *np.asarray(bands[label], float), color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        across, up = (np.concatenate([[], *(line.get_data()[side] for line in axis.lines)]) for side in (0, 1))
        axis.set(xscale=_scale(across), yscale=_scale(up))
    elif x is not None and len(x) <= 10:
        axis.set_xticks(x)  # few places: each is named, and none in between
    axis.grid(color="0.9")
    if lines:
        axis.legend(frameon=False, fontsize=10)
    return figure


def along(summarised, x, by, xlabel="", ylabel=""):
    """Means of a summary along one of its columns x, with their intervals: a curve for each value of the columns `by`.

    summarised: the result of `tables.summary`, with x as a column of numbers, the same ones for every curve.
    """
    parts = {", ".join(map(str, key)): part.sort_values(x) for key, part in summarised.groupby(list(by), sort=False)}
    places = next(iter(parts.values()))[x].to_numpy() if parts else None
    return curves({label: part["mean"] for label, part in parts.items()}, places, {label: (part["low"], part["high"]) for label, part in parts.items()}, xlabel or x, ylabel)


def _scale(values):
    """Logarithmic, unless no value is positive: matplotlib refuses to draw such an axis."""
    return "log" if (np.asarray(values, float) > 0).any() else "linear"


def _grid(panels, height, columns=2):
    """Figure with small panels, so many to a row, and its axes; those left over are switched off. One panel where there could be two is smaller than the page."""
    width = WIDTH if panels > 1 or columns == 1 else WIDTH * 0.7
    columns = min(columns, max(panels, 1))
    rows = -(-max(panels, 1) // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes
