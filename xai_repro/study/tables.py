"""Our numbers beside the printed ones, and tables as a page shows them."""

import json

import numpy as np
import pandas as pd
import pyarrow
from pandas.api.types import infer_dtype
from pyarrow import parquet

from xai_repro.errors import whole_number
from xai_repro.published import published
from xai_repro.registry import methods, metrics
from xai_repro.store.files import whole, writable
from xai_repro.study import layout, markup, provenance
from xai_repro.study.layout import by_method, COMPARED, side_by_side, sign_of
from xai_repro.study.printed import headed
from xai_repro.study.resampling import interval, resampled, units
from xai_repro.study.shown import Shown
from xai_repro.study.statistics import (
    BY, TIME, against_controls, checked_rows, cost, higher_is_better, kendall, resampled_means, slopes, summary, timed, with_run, with_time,
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

    Returns the columns paper_key and table (which printed table it is), row, column, group and heading (of the two, the one that names the method is heading;
    methods are compared within a group), dataset, model, method, metric, printed, paper, ours, low, high (all in the
    paper's unit), unit, n (images), networks, empty (share of empty maps), negative (of those with a negative value), paper_rank, rank (1 is best; NaN where either number is missing), stands_in (what was run
    in place of what), used (the data set and model that were), status ("ok" or why there is no number of ours), mark.
    Raises UnknownName for a paper or table that does not exist, ValueError where no cell is kept or df is no such table.
    """
    return _joined(df, paper, table, row, column)[COMPARED]


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
    joined = pd.DataFrame([cell | {"paper_key": paper} | _ours(means, cell, paper) for cell in cells.to_dict("records")])
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


def style(table, caption=""):
    """A table as a notebook displays it, in no file: best values bold, legible on light and dark backgrounds.

    table: the result of `compare` or `summary`, or any other DataFrame. Long wide ones become several small ones.
    """
    return _displayed(table, "", caption)


def show(table, path, caption=""):
    """Save a table and return it as what a notebook displays."""
    save(table, path, caption)
    return _displayed(table, path, caption)


def save(table, path, caption=""):
    """Write a table as csv, with the numbers and intervals that a page shows, and beside it all its numbers as parquet; returns the path of the csv.

    The csv of the result of `compare` or `summary` is laid out first; an index that has a name is written. Both files are complete or not at all.
    Raises OSError for a path that cannot be written, before anything else.
    """
    writable(path)
    return keep(layout.flat(table), table, path, _caption(table, caption))


def keep(shown, numbers, path, caption=""):
    """Write a table as it is shown as csv, with four significant digits, and its numbers beside it as parquet. The parquet's metadata say under `xai_repro`, as JSON,
    caption, paper and table (null where it is none), and provenance."""
    path = writable(path)
    with whole(path) as temporary:
        shown.to_csv(temporary, index=shown.index.name is not None, float_format="%.4g", lineterminator="\n")
    frame = numbers.reset_index() if numbers.index.name is not None else numbers
    frame = frame.set_axis(map(str, frame.columns), axis=1)
    frame = frame.assign(**{name: column.map(str, na_action="ignore") for name, column in frame.items() if infer_dtype(column) in ("mixed", "mixed-integer")})
    written = pyarrow.Table.from_pandas(frame, preserve_index=False)
    about = {"caption": caption, **dict.fromkeys(("paper", "table")), **printed_as(numbers), "provenance": provenance.told()}
    with whole(path.with_suffix(".parquet")) as temporary:
        parquet.write_table(written.replace_schema_metadata({**written.schema.metadata, b"xai_repro": json.dumps(about)}), temporary)
    return path


def printed_as(table):
    """{"paper", "table"} of the one printed table that the result of `compare` is about, or another that says so in attrs["printed"]; {} for anything else."""
    if "printed" in table.attrs:
        return table.attrs["printed"]
    if not {"paper_key", "table"} <= set(table.columns) or len(table[["paper_key", "table"]].drop_duplicates()) != 1:
        return {}
    return {"paper": table["paper_key"].iat[0], "table": table["table"].iat[0]}


def displayed(smalls, note, path, caption="", **about):
    """What a notebook displays of small tables that are in a file."""
    content = {"text/html": markup.html(smalls, note), "text/plain": markup.plain(smalls, note)}
    return Shown(content, str(path), {"kind": "table", "caption": caption, **about, "provenance": provenance.told()})


def _displayed(table, path, caption):
    return displayed(*layout.small(table), path, _caption(table, caption), **printed_as(table))


def _caption(table, given):
    return given or "".join(f"Table {about['table']} as printed, and ours." for about in [printed_as(table)] if about)
