"""Our numbers beside the printed ones, and tables as a page shows them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from xai_repro.errors import whole_number
from xai_repro.published import published
from xai_repro.registry import methods, metrics
from xai_repro.store.files import whole, writable
from xai_repro.study.printed import headed
from xai_repro.study.resampling import interval, resampled, units
from xai_repro.study.statistics import (
    BY, EMPTY, TIME, against_controls, checked_rows, cost, higher_is_better, kendall, resampled_means, slopes, summary, timed, with_run, with_time,
)  # fmt: skip

# What the embedded experiment runs in place of a paper's data and models; "" is where the paper's table does not say.
# A real run needs none of this: rows of the paper's own data set or model are preferred where there are any.
STANDS_IN = {
    "imagenet": "mini-birds",
    "cub": "mini-birds",
    "ucmerced": "mini-birds",
    "stl10": "mini-birds",
    "cifar100": "mini-birds",
    "catsdogs": "mini-birds",
    "imagenet-seg": "mini-birds",
    "voc2007": "mini-scenes",
    "coco2014": "mini-scenes",
    "vgg16": "mini-vgg",
    "vgg19": "mini-vgg",
    "resnet18": "mini-resnet",
    "lfi-resnet18": "mini-lfi",
    "abn-resnet18": "mini-abn",
    "resnet50": "mini-resnet",
    "resnet101": "mini-resnet",
}
# What the profile photos runs in their place; its rows come first where both are there.
ON_PHOTOGRAPHS = {"imagenet": "imagenet-samples"} | dict.fromkeys(("vgg16", "vgg19", "resnet18", "resnet50", "resnet101"), "efficientnet-lite0")
# Gradient Hedging's tables are of two data sets, and so both drawn ones answer to it.
STANDS_IN_FOR = {"gradient_hedging": {"coco2014": "mini-birds"}}
# Where a paper's table leaves the data set or model open: Collection-CAM pools ImageNet, UC Merced and CUB, and
# LIFT-CAM's tables 7 to 10 repeat the main paper's experiment, which is on VGG16.
UNSAID = {"dataset": "imagenet", "model": "vgg16"}


# -- beside the papers ----------------------------------------------------------------------------------------------


def compare(df, paper, table, row="", column=""):
    """The numbers of a paper's table and ours, one row per printed cell.

    df: rows of `evaluate`. row, column: keep only the cells with this part in their heading ("Average" of
    "Average Drop (%) / Average") or, where no heading has it, those whose heading contains the text.
    Ours are the rows of the paper's data set and model or, without any, of their stand-ins (STANDS_IN). A method is
    found by the paper's heading where `evaluate` was given it as a label, and by its name otherwise.

    Returns the columns table, row, column, group and heading (of the two, the one that names the method is heading;
    methods are compared within a group), dataset, model, method, metric, printed, paper, ours, low, high (all in the
    paper's unit), unit, n (images), networks, empty (share of empty maps), negative (of those with a negative value), paper_rank, rank (1 is best; NaN where either number is missing), stands_in (what was run
    in place of what), used (the data set and model that were), status ("ok" or why there is no number of ours), mark.
    Raises UnknownName for a paper or table that does not exist, ValueError where no cell is kept or df is no such table.
    """
    return _joined(df, paper, table, row, column)[_COMPARED]


_COMPARED = [
    "table", "row", "column", "group", "heading", "dataset", "model", "method", "metric", "printed", "paper", "ours",
    "low", "high", "unit", "n", "networks", "empty", "negative", "paper_rank", "rank", "stands_in", "used", "status", "mark",
]  # fmt: skip


def rank_agreement(df, paper, table, row="", column=""):
    """Kendall's tau-b between the paper's order of the methods and ours, per group and metric of `compare`.

    Returns the columns group, metric, stands_in, tau, low, high, methods (compared), needed, n (images), networks. tau is NaN for
    fewer than three methods or where all are equal. The interval redraws networks and images, the same for all methods: it says how
    firm our order is, not whether it agrees with the paper's by more than chance. For that tau has to reach `needed`, the least that
    unrelated orders of so many methods reach with a probability of at most 5 % (two-sided, without ties): .87 for six methods; NaN where
    even the same order could be chance, as for three or four.
    """
    joined, rows = _joined(df, paper, table, row, column), with_run(with_time(checked_rows(df, ["value", "seconds"])))
    found = []
    for (name, metric), group in joined.groupby(["group", "metric"], sort=False):
        both = group[group["paper"].notna() & group["ours"].notna()]
        sign = 1 if higher_is_better(metric) else -1
        record = {"group": name, "metric": metric, "stands_in": group["stands_in"].max(), "methods": len(both), "needed": needed(len(both))}
        if len(both) < 3 or higher_is_better(metric) is None:
            found.append(record | {"tau": np.nan, "low": np.nan, "high": np.nan, "n": 0, "networks": 0})
            continue
        printed = sign * both["paper"].to_numpy()
        sums, counts, design = _sums_together(rows, both)

        def tau(weights, sums=sums, counts=counts, printed=printed, sign=sign):
            with np.errstate(invalid="ignore", divide="ignore"):
                # Rounding makes methods that are equal by algebra equal in float32 too, whatever the order of its sums.
                return kendall(printed, (sign * (weights @ sums) / (weights @ counts)).round(6))

        estimate, samples = resampled(design, tau)
        low, high = interval(samples.clip(-1, 1))
        found.append(record | {"tau": estimate, "low": low, "high": high, "n": len(set(design[1])), "networks": len(set(design[0]))})
    return pd.DataFrame(found, columns=["group", "metric", "stands_in", "tau", "low", "high", "methods", "needed", "n", "networks"])


def needed(methods, level=0.05):
    """The least Kendall tau of so many methods that unrelated orders reach with a probability of at most `level`, two-sided; else NaN.

    From the number of orders with so many pairs turned round: the product of 1 + x + ... + x^(m - 1) over m.
    """
    ways = np.ones(1)
    for m in range(2, methods + 1):
        ways = np.convolve(ways, np.ones(m))
    pairs, beyond = len(ways) - 1, 2 * np.cumsum(ways) / ways.sum()  # at most so many turned round, or at least so many
    few = np.flatnonzero(beyond <= level)
    return 1 - 2 * few.max() / pairs if len(few) else np.nan


def simulations(df, paper, table, runs):
    """A paper's table of repeated runs beside ours: how often each method comes out best.

    df: rows of `evaluate`; their images are dealt out to `runs` runs of equal size. The paper's runs are its numbered columns.
    Returns one row per method: in how many runs it is best in the paper and here (ties count for all), and our smallest, mean
    and largest run, in the paper's unit. Methods without rows have no numbers of ours.
    Raises ValueError for a table without repeated runs, and where df has fewer images of it than runs.
    """
    runs, joined = whole_number("runs", runs), compare(df, paper, table)
    scale, sign = 100 if (joined["unit"] == "%").any() else 1, 1 if higher_is_better(joined["metric"].iat[0]) else -1
    numbered = joined[joined["column"].str.fullmatch(r".*/ \d+")]
    if numbered.empty:
        raise ValueError(f"table {table} of {paper} has no numbered runs")
    printed = numbered.pivot_table(index="method", columns="column", values="paper", sort=False)
    here = joined.dropna(subset=["ours"]).drop_duplicates("method")
    used = df[df["metric"].isin(joined["metric"]) & df["method"].isin(here["method"])]
    for key, stands_for in (("dataset", numbered["dataset"].iat[0]), ("model", numbered["model"].iat[0])):
        used = used[used[key] == present(set(used[key]), key, stands_for, paper)]
    images = pd.factorize(used["image_id"])[0]
    if used["image_id"].nunique() < runs:
        raise ValueError(f"{used['image_id'].nunique()} images of table {table} of {paper} are too few for {runs} runs")
    means = used.assign(run=images * runs // (images.max() + 1)).pivot_table(index="method", columns="run", values="value") * scale
    wins = [(sign * values).eq((sign * values).max()).sum(axis=1) for values in (printed, means)]
    found = pd.DataFrame({f"best in the paper (of {printed.shape[1]})": wins[0], f"best here (of {means.shape[1]})": wins[1]})
    found = found.join(pd.DataFrame({"smallest run": means.min(axis=1), "mean": means.mean(axis=1), "largest run": means.max(axis=1)}))
    return found.reindex(printed.index).rename_axis("method").reset_index()


def _sums_together(rows, cells):
    """Sums and counts [pairs, methods] by pair of run and image, the same for every method, and the design of `units`."""
    chosen = [rows[np.logical_and.reduce([rows[key] == value for key, value in cell.items()])].dropna(subset="value") for cell in cells["found"]]
    every = pd.concat(chosen, keys=range(len(chosen)), names=["cell"])
    codes, design = units(every["image_id"], every["run"])
    sums, counts = np.zeros((2, len(design[0]), len(chosen)))
    place = codes, every.index.get_level_values("cell").to_numpy()
    np.add.at(sums, place, every["value"].to_numpy())
    np.add.at(counts, place, 1)
    return sums, counts, design


def _joined(df, paper, table, row, column):
    df = checked_rows(df, [*BY, "image_id", "target", "value", "seconds", "status"])
    cells = _cells(paper, table, row, column)
    means = summary(with_time(df)[lambda rows: rows["metric"].isin(cells["metric"])])
    joined = pd.DataFrame([cell | _ours(means, cell, paper) for cell in cells.to_dict("records")])
    both = joined["paper"].notna() & joined["ours"].notna()
    for rank, source in (("paper_rank", "paper"), ("rank", "ours")):
        joined[rank] = np.nan
        for (_, metric), group in joined[both].groupby(["group", "metric"], sort=False):
            direction = higher_is_better(metric)
            if direction is not None:
                joined.loc[group.index, rank] = group[source].round(6).rank(ascending=not direction, method="min")
    return joined


def _cells(paper, table, row, column):
    """The printed cells with the headings sorted into `heading` (names the method) and `group` (the other one)."""
    cells = published(paper, table)
    cells = _with_heading(_with_heading(cells, "row", row), "column", column)
    if cells.empty:
        raise ValueError(f"table {table} of {paper} has no cell in a row with '{row}' and a column with '{column}'")
    return headed(cells).assign(paper=cells["value"])


def _with_heading(cells, key, text):
    """Cells whose heading has a part (between " / ") that is this text; where there is none, those that contain it."""
    exact = cells[[text in heading.split(" / ") for heading in cells[key]]]
    return exact if text and len(exact) else cells[cells[key].str.contains(text, regex=False)]


def _ours(means, cell, paper):
    """Our number for a printed cell, or why there is none."""
    none = {"ours": np.nan, "low": np.nan, "high": np.nan, "n": 0, "networks": 0, "empty": np.nan, "negative": np.nan, "stands_in": "", "used": "", "found": None}
    here, stands_in, places = means[means["metric"] == cell["metric"]], [], []
    for key in ("dataset", "model"):
        used = present(set(here[key]), key, cell[key], paper)
        if used is None:
            return none | {"status": _not_run(cell, f"no rows of {cell['metric']} on {' or '.join(_candidates(key, cell[key], paper))}")}
        here, places = here[here[key] == used], [*places, used]
        stands_in += [f"{used} for {cell[key] or 'what the table leaves open'}"] * (used != cell[key])
    none |= {"stands_in": ", ".join(stands_in), "used": ", ".join(places)}
    labelled = here[here["method"].isin({cell["heading"], *cell["heading"].split(" / ")})]
    named = here[here["method"] == cell["method"]]
    if len(labelled) == 0 and cell["alike"] > 1:
        return none | {"status": _not_run(cell, f"label a method '{cell['heading']}' for this row")}
    one = labelled if len(labelled) else named
    if len(one) > 1:  # several settings: the default one, if it is among them
        one = one[one["hyper"] == "{}"]
        if len(one) != 1:
            return none | {"status": f"several settings of {cell['method']}: label one of them '{cell['heading']}'"}
    if len(one) == 0:
        return none | {"status": _not_run(cell, "no rows")}
    one, unit = one.iloc[0], 100 if cell["unit"] == "%" else 1
    return none | {
        "ours": one["mean"] * unit, "low": one["low"] * unit, "high": one["high"] * unit, "n": one["n"], "networks": one["networks"],
        "empty": one["empty"], "negative": one["negative"], "status": one["status"], "found": {key: one[key] for key in BY},
    }  # fmt: skip


def present(names, key, name, paper):
    """Which of the data sets or models (key) that were run answers to a paper's: itself, else its stand-in, else None."""
    return next((one for one in _candidates(key, name, paper) if one in names), None)


def _candidates(key, name, paper):
    real = name or UNSAID[key]
    return [real, *(table[real] for table in (ON_PHOTOGRAPHS, STANDS_IN | STANDS_IN_FOR.get(paper, {})) if real in table)]


def _not_run(cell, otherwise):
    """Why a cell is empty: the library lacks its method or metric, or nobody has run it."""
    for kind, names in (("method", methods()), ("metric", [*metrics(), TIME])):
        if cell[kind] not in names:
            return f"not run yet: no {kind} '{cell[kind]}' in this version"
    return f"not run yet: {otherwise}"


# -- for the page ---------------------------------------------------------------------------------------------------


def side_by_side(compared, bold="**{}**"):
    """A paper's table with ours beside it: the result of `compare`, one row per method, text as it is shown.

    Columns: map (`sign_of`), then per group the paper's number as printed, ours with as many decimals, and our interval. Where several groups have the same
    stand-in, ours is shown once, after the paper's last. The best of a column is set by `bold`, though none of ours with a tenth of
    its maps empty or more; where nothing was run the cell says so.
    """
    compared = checked_rows(compared, _COMPARED, "what `compare` returns")
    rows, several = {}, compared["group"].nunique() > 1
    groups = {key: part for key, part in compared.groupby(["group", "metric"], sort=False)}
    alike = {key: [other for other, part in groups.items() if _same_ours(part, groups[key])] for key in groups}
    for (group, metric), part in groups.items():
        digits, same = part["printed"].map(_decimals).max(), alike[group, metric]
        direction, prefix = higher_is_better(metric), f"{group}: " if several else ""
        named = _together([name for name, _ in same]) + ": " if several else ""
        for cell in part.to_dict("records"):
            row = rows.setdefault(cell["heading"], {"map": ""})
            row["map"] = sign_of(cell, row["map"])
            row[f"{prefix}paper"] = _shown(cell["printed"], cell["paper"], part["paper"], direction, digits, bold)
            if (group, metric) != same[-1]:
                continue
            missing = pd.isna(cell["ours"])
            ours = cell["status"].split(":")[0] if missing else f"{cell['ours']:.{digits}f}"
            row[f"{named}ours"] = _shown(ours, *_with_maps(cell, part, "ours"), direction, digits, bold)
            row[f"{named}95 %"] = "" if missing else f"{cell['low']:.{digits}f} to {cell['high']:.{digits}f}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").fillna("")


def _same_ours(one, other):
    """Whether two groups show the same numbers of ours: the metric, the data set and the model that stand in, and method for method."""
    facts = [part[["heading", "metric", "used", "ours", "low", "high"]].set_index("heading").sort_index() for part in (one, other)]
    return one is other or (one["ours"].notna().any() and facts[0].equals(facts[1]))


def _together(names):
    """The names of several groups as one: what they begin with alike is said once."""
    start = names[0].rpartition(" / ")[0] + " / "
    alike = len(names) > 1 and all(name.startswith(start) for name in names)
    return start + ", ".join(name.removeprefix(start) for name in names) if alike else ", ".join(names)


def _with_maps(cell, part, column):
    """The value of a cell and those of its column, without those of a tenth of empty maps or more."""
    full = ~(part["empty"] >= EMPTY) if "empty" in part else slice(None)
    return np.nan if cell.get("empty", 0) >= EMPTY else cell[column], part.loc[full, column]


def by_method(summarised, percent=True, bold="**{}**"):
    """A summary laid out with one row per method, a column `map` (`sign_of`) and one column per metric, text as it is shown, the best set by `bold`,
    though none with a tenth of its maps empty or more; their share is said.

    Where the summary holds several data sets, models or settings, the row's name says which.
    """
    summarised = checked_rows(summarised, ["method", "metric", "mean", "low", "high", "status"], "what `summary` returns")
    keys = [k for k in ("dataset", "model", "method", "hyper") if k in summarised and (k == "method" or summarised[k].nunique() > 1)]
    rows, unit, digits = {}, 100 if percent else 1, 1 if percent else 3
    for where, part in summarised.groupby([k for k in ("dataset", "model", "metric") if k in summarised], sort=False):
        metric = part["metric"].iat[0]
        for cell in part.to_dict("records"):
            row = rows.setdefault(", ".join(str(cell[k]) for k in keys if cell[k] != "{}"), {"map": ""})
            row["map"] = sign_of(cell, row["map"])
            if pd.isna(cell["mean"]):
                row[metric] = re.split("[;:]", cell["status"])[0]
                continue
            text = f"{cell['mean'] * unit:.{digits}f}"
            text = _shown(text, *_with_maps(cell, part, "mean"), higher_is_better(metric), digits + 2 * percent, bold)
            row[metric] = f"{text} ({cell['low'] * unit:.{digits}f} to {cell['high'] * unit:.{digits}f})"
            row[metric] += f", {cell['empty']:.0%} empty" if cell.get("empty", 0) >= EMPTY else ""
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").fillna("")


def sign_of(cell, others=""):
    """The signs of the maps of a cell, and of others: "\u2265 0" where none has a negative value, "\u00b1" where some have, "" where nothing says so."""
    share = cell.get("negative", np.nan)
    return others if pd.isna(share) else "\u00b1" if share > 0 or others == "\u00b1" else "\u2265 0"


def style(table):
    """A table for a notebook's page, as a pandas Styler: best values bold, legible on light and dark backgrounds.

    table: the result of `compare` or `summary`, or any other DataFrame.
    """
    if {"paper", "ours", "group"} <= set(table.columns):
        table = side_by_side(table, bold="<b>{}</b>")
    elif {"mean", "low", "high", "method", "metric"} <= set(table.columns):
        table = by_method(table, bold="<b>{}</b>")
    elif table.index.name is None:
        return _lined(table.style.hide(axis="index"))
    return _lined(table.style)


def _lined(styler):
    lines = [
        {"selector": "", "props": "border-collapse: collapse; font-variant-numeric: tabular-nums; color: inherit"},
        {"selector": "th, td", "props": "padding: .25em .7em; text-align: right; background: transparent; color: inherit"},
        {"selector": "th.row_heading, th.index_name", "props": "text-align: left; font-weight: normal"},
        {"selector": "thead th", "props": "border-bottom: 1px solid currentColor; vertical-align: bottom"},
    ]
    return styler.set_uuid("table").format(_short, na_rep="").set_table_styles(lines)


def _short(value):
    """Four significant digits, or whole numbers from a thousand on."""
    return value if not isinstance(value, float) else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def save(table, path):
    """Write a table as csv for a page's `{csv-table}`: four significant digits, complete or not at all; returns the path.

    The result of `compare` or `summary` is laid out first; an index that has a name is written.
    Raises OSError for a path that cannot be written, before anything else.
    """
    writable(path)
    checked_rows(table, [], "what a page shows")
    if {"paper", "ours", "group"} <= set(table.columns):
        table = side_by_side(table)
    elif {"mean", "low", "high", "method", "metric"} <= set(table.columns):
        table = by_method(table)
    with whole(path) as temporary:
        table.to_csv(temporary, index=table.index.name is not None, float_format="%.4g", lineterminator="\n")
    return Path(path)


def show(table, path):
    """Save a table and return it as what a notebook displays."""
    save(table, path)
    return style(table)


def _decimals(printed):
    return len(printed.partition(".")[2].rstrip("%*")) if "." in printed and "e" not in printed else 0 if printed.isdigit() else 3


def _shown(text, value, values, direction, digits, bold):
    """Text, bold where its value is the best of its column to the digits shown."""
    values = values.dropna().round(digits)
    if direction is None or pd.isna(value) or len(values) < 2:
        return text
    return bold.format(text) if round(value, digits) == (values.max() if direction else values.min()) else text
