"""Which method? What a map costs, in forward passes, against how faithful it is and how well it finds its object: a chart per network and data set."""

from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from xai_repro.registry import methods
from xai_repro.store.files import write_text
from xai_repro.study.estimate import counter
from xai_repro.study.figures import COLOURS, save, styled
from xai_repro.study.labels import beside
from xai_repro.study.notes import listed
from xai_repro.study.outcomes import LEAST_IMAGES
from xai_repro.study.resampling import interval, mean_of
from xai_repro.study.shown import size
from xai_repro.study.statistics import EMPTY, higher_is_better, is_control, summary, with_run

# The metrics that rank controls low, and the truth high where it is known (notebook 04): others call a dimmed image a good map, or edges a find.
FAITHFUL, FINDS, PARTS = "average-drop-in-deletion", "proportion", "part-share"
METRICS = (FAITHFUL, FINDS, PARTS)
SANITY, SAME = "sanity-cascading", 0.707  # as the papers' claims are read: ranks of pixels share half of their variance with those before
SCORED, CHECKED = ("10_lift_cam_faithfulness", "04_known_truth"), ("25_collection_cam_sanity", "33_gradient_hedging_sanity")
PAGE = "92_which_method"
WIDTH, HEIGHT = 5, 2.3  # inches, of a figure and of one of its charts: on a phone a point is a pixel
NOTHING = 0.5  # where what costs nothing stands on an axis that has no zero
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
KEYS = ["dataset", "model", "run", "image_id", "target", "method", "hyper", "metric"]


# -- from rows to a table ---------------------------------------------------------------------------------------------------


def rows_of(results):
    """The rows that the notebooks of SCORED and CHECKED left in a folder of results, each once.

    Raises FileNotFoundError, with the command, without the first.
    """
    files = [Path(results, f"{name}.parquet") for name in (*SCORED, *CHECKED)]
    if not files[0].exists():
        raise FileNotFoundError(f"no rows of {SCORED[0]} in {results}; run: xai-repro run {' '.join(file.name[:2] for file in files)}")
    rows = with_run(pd.concat([pd.read_parquet(file) for file in files if file.exists()], ignore_index=True))
    return rows[rows["metric"].isin([*METRICS, SANITY]) & rows["method"].isin(methods())].drop_duplicates(KEYS)


def compared(rows, settings):
    """Every method on every metric of METRICS, per data set and network of a profile's settings.

    Columns: dataset, model, metric, method, cost (forward passes of one map, counted at most, `estimate.Counter`), mean, low, high, n, networks, and what
    is true of it: control (a map that knows nothing of the network), unmoved (it fails the sanity check: beyond doubt its ranks share more than half of
    their variance with those of the same method on the network drawn anew, on any data set), few (fewer than 20 images: it is not compared), best, near
    (image by image, the best is not better than it beyond doubt). The best is sought among methods of which neither control nor unmoved nor few is true,
    and that have fewer than a tenth of their maps empty.
    """
    rows = rows[rows["model"].isin(settings["models"]) & rows["dataset"].isin(settings["datasets"])]
    fail, found = unmoved(rows), []
    for (dataset, model, metric), part in rows[rows["metric"] != SANITY].groupby(["dataset", "model", "metric"], sort=False):
        cells = summary(part).dropna(subset="mean")
        cells = cells.assign(
            cost=[counter(model).method(one.method, settings["hyper"].get(one.method, {})) for one in cells.itertuples()],
            control=[is_control(name) for name in cells["method"]],
            unmoved=[(model, name) in fail for name in cells["method"]],
            few=cells["n"] < LEAST_IMAGES,
        )
        found.append(_with_best(cells, part, 1 if higher_is_better(metric) else -1))
    columns = ["dataset", "model", "metric", "method", "cost", "mean", "low", "high", "n", "networks", "control", "unmoved", "few", "best", "near"]
    found = pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)
    return found.sort_values("metric", key=lambda names: names.map(METRICS.index), kind="stable", ignore_index=True)


def unmoved(rows):
    """The pairs (network, method) that fail the sanity check."""
    checked = summary(rows[rows["metric"] == SANITY], ["model", "dataset", "method", "hyper"])
    return {(one.model, one.method) for one in checked.itertuples() if one.low > SAME}


def _with_best(cells, part, sign):
    """The cells of one metric with the columns best and near."""
    fair = cells[~(cells["control"] | cells["unmoved"] | cells["few"] | (cells["empty"] >= EMPTY))]
    if fair.empty:
        return cells.assign(best=False, near=False)
    best = fair.loc[(sign * fair["mean"]).idxmax(), "method"]
    theirs = part[part["method"] == best]
    near = [bool(name == best or not few and _close(theirs, part[part["method"] == name], sign)) for name, few in zip(cells["method"], cells["few"])]
    return cells.assign(best=cells["method"] == best, near=near)


def _close(best, other, sign):
    """Whether a method is not worse than the best beyond doubt: the interval of the difference, image by image, reaches zero."""
    pairs = best.merge(other, on=["run", "image_id", "target"], suffixes=("_a", "_b")).dropna(subset=["value_a", "value_b"])
    _, samples = mean_of(sign * (pairs["value_a"] - pairs["value_b"]), pairs["image_id"].to_numpy(), pairs["run"].to_numpy())
    return interval(samples)[0] <= 0


# -- in words ---------------------------------------------------------------------------------------------------------------


def said(table):
    """What came out, in sentences: the result of `compared` as text for a page."""
    firm = table[~table["few"]]
    if not firm["best"].any():
        return f"Fewer than {LEAST_IMAGES} images a method: none is called best."
    total = int(firm["best"].sum())
    fair = firm[~(firm["control"] | firm["unmoved"])]
    often = fair.groupby("method", sort=False).agg(near=("near", "sum"), cost=("cost", "max")).sort_values(["near", "cost"], ascending=[False, True])
    first = often[often["near"] == often["near"].max()]
    names = listed(f"{name} ({passes(cost)})" for name, cost in first["cost"].items())
    most = int(often["near"].max())
    times = "all" if most == total else f"{most} of"
    told = [f"**Within the interval of the best in {times} {total} comparisons: {names}.** In brackets, forward passes a map."]
    for (dataset, model), part in fair.groupby(["dataset", "model"], sort=False):
        told.append(f"* {model} on {dataset}: {'; '.join(_of_metric(*one) for one in part.groupby('metric', sort=False))}.")
    level = firm[firm["control"] & firm["near"]]
    if len(level):
        where = listed(f"{row.method} by {row.metric} ({row.model} on {row.dataset})" for row in level.itertuples())
        told.append(f"\nMaps that know nothing of the network are within the interval, too, and there the metric does not tell: {where}.")
    return "\n".join(told)


def _of_metric(metric, part):
    best, cheapest = part[part["best"]].iloc[0], part[part["near"]].sort_values("cost", kind="stable").iloc[0]
    alone = f"by {metric} the best is {best['method']} ({passes(best['cost'])})"
    return alone if cheapest["method"] == best["method"] else f"{alone}, and {cheapest['method']} ({passes(cheapest['cost'])}) is within its interval"


def passes(cost):
    """A number of forward passes, as it is shown."""
    return f"{cost:.1f}" if 0.05 < cost < 9.95 else f"{cost:.0f}"


def shown(table):
    """One row per method, of one data set and network: what it costs, its means with their intervals, and what is true of it."""
    found = {}
    for row in table.to_dict("records"):
        one = found.setdefault(row["method"], {"forward passes": passes(row["cost"]), "note": {}})
        one[row["metric"]] = f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        true = [("control", "control"), ("unmoved", "fails the sanity check"), ("few", f"{row['n']} images"), ("best", f"best by {row['metric']}")]
        one["note"] |= {words: None for key, words in [*true, ("near", f"near by {row['metric']}")] if row[key] and not (key == "near" and row["best"])}
    for one in found.values():
        one["note"] = ", ".join(one["note"])
    order = list(table.drop_duplicates("method").sort_values("cost", kind="stable")["method"])
    columns = ["forward passes", *dict.fromkeys(table["metric"]), "note"]
    return pd.DataFrame([found[name] for name in order], index=pd.Index(order, name="method"), columns=columns).fillna("")


# -- as a figure ------------------------------------------------------------------------------------------------------------


@styled
def figure(table):
    """A chart per metric of one data set and network: cost against value. Its `caption` and its `alt` are made from what is drawn."""
    parts = list(table.groupby("metric", sort=False))
    drawn = Figure(figsize=(WIDTH, HEIGHT * len(parts) + 1))
    drawn.subplots_adjust(left=0.13, right=0.98, top=1 - 0.48 / drawn.get_figheight(), bottom=0.95 / drawn.get_figheight(), hspace=0.25)
    for axis, (metric, part) in zip(drawn.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0], parts):
        _chart(axis, metric, part)
    axis.set_xlabel("forward passes a map", fontsize=9)
    place = f"{table['model'].iat[0]} on {table['dataset'].iat[0]}"
    drawn.suptitle(place, x=0.02, y=0.995, ha="left", fontsize=11)
    handles = {label: handle for one in drawn.axes for handle, label in zip(*one.get_legend_handles_labels())}
    drawn.legend(handles.values(), handles.keys(), loc="lower center", ncols=3, fontsize=9, frameon=False, handletextpad=0.1, columnspacing=1)
    against, charts = listed(metric for metric, _ in parts), "chart" if len(parts) == 1 else "charts"
    drawn.caption = f"{place}, {table['n'].max()} images: what a map costs, against {against}. The band is the 95 % interval of the best."
    drawn.alt = " ".join([f"{len(parts)} {charts} of {place}, across: forward passes a map.", *(_told(metric, part) for metric, part in parts)])
    return drawn


def at_home(table, folder):
    """The figure of faithfulness and pointing for the start page: home.svg, and home.html that shows it and leads to the page of the method."""
    drawn = figure(table[table["metric"].isin([FAITHFUL, FINDS])])
    width, height = size(save(drawn, Path(folder, "home.svg")))
    picture = f'<img src="files/{Path(folder).name}/home.svg" alt="{escape(drawn.alt)}" width="{width}" height="{height}">'
    text = f'<figure class="xr-figure"><a href="notebooks/{PAGE}.html">{picture}</a><figcaption>{escape(drawn.caption)}</figcaption></figure>\n'
    write_text(text, Path(folder, "home.html"))


def _chart(axis, metric, part):
    places = part["cost"].clip(lower=NOTHING)
    most = places.max()
    for row, x in zip(part.itertuples(), places):
        label, style = _look(row)
        axis.plot(x, row.mean, linestyle="", label=label, clip_on=False, **style)
    for row in part[part["best"]].itertuples():
        axis.axhspan(row.low, row.high, color=COLOURS[1], alpha=0.1, linewidth=0)
    axis.set(xscale="log", xlim=(NOTHING * 0.8, most * 2.2))
    axis.margins(y=0.08)
    ticks = [tick for tick in TICKS if tick <= most * 1.5]
    axis.xaxis.set_major_locator(FixedLocator([NOTHING, *ticks]))
    axis.xaxis.set_major_formatter(FixedFormatter(["0", *(f"{tick:,}".replace(",", "\u202f") for tick in ticks)]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(labelsize=9)
    axis.set_title(metric + (" \u2191" if higher_is_better(metric) else " \u2193"), fontsize=10, loc="left", pad=4)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    order = part.assign(place=places).sort_values(["best", "near", "control", "unmoved", "cost"], ascending=[False, False, False, False, True])
    beside(axis, order[["place", "mean"]].to_numpy(float), list(order["method"]))


def _look(row):
    """What a point is, and how it looks: by its sign and by its colour."""
    if row.control:
        return "control", {"marker": "x", "color": "black", "markersize": 7, "markeredgewidth": 2}
    if row.unmoved:
        return "fails the sanity check", {"marker": "s", "color": "0.65", "markersize": 6}
    if row.few:
        return f"fewer than {LEAST_IMAGES} images", {"marker": "o", "color": COLOURS[0], "markerfacecolor": "white", "markersize": 6}
    if row.near:
        return "within the interval of the best", {"marker": "D", "color": COLOURS[1], "markersize": 6}
    return "worse", {"marker": "o", "color": COLOURS[0], "markersize": 6}


def _told(metric, part):
    """A chart in words."""
    groups = [
        ("Best", part["best"]), ("within its interval", part["near"] & ~part["best"] & ~part["control"] & ~part["unmoved"]), ("controls", part["control"]),
        ("fails the sanity check", part["unmoved"] & ~part["control"]),
    ]  # fmt: skip
    told = []
    for words, chosen in groups:
        names = listed(f"{row.method} {row.mean:.2f} at {passes(row.cost)} forward passes" for row in part[chosen].itertuples())
        told += [f"{words}: {names}"] * bool(names)
    return f"Up: {metric}. {'; '.join(told)}; {len(part)} methods in all."
