"""How tables are laid out: flat, for a csv, and as small tables that fit a page, each with its units, and a note that says once what all have in common."""

import re

import numpy as np
import pandas as pd

from xai_repro.study.general import smalls_of_any
from xai_repro.study.markup import Small
from xai_repro.study.notes import counted, INTERVALS, named, standing_in
from xai_repro.study.statistics import checked_rows, EMPTY, higher_is_better, NO_SHARES

COMPARED = [
    "paper_key", "table", "row", "column", "group", "heading", "dataset", "model", "method", "metric", "printed", "paper", "ours",
    "low", "high", "unit", "n", "networks", "empty", "negative", "paper_rank", "rank", "stands_in", "used", "status", "mark",
]  # fmt: skip
_SUMMARY = ["method", "metric", "mean", "low", "high", "status"]
GROUPS, METRICS = 4, 5  # most groups of a printed table, or metrics of a summary, side by side
_ARROWS = {True: " \u2191", False: " \u2193", None: ""}
_WORDS = {True: ", higher is better", False: ", lower is better", None: ""}


def flat(table):
    """A table as its csv has it: the results of `compare` and `summary` laid out, any other as it is; nothing bold."""
    kind = _kind(table)
    return kind(table, bold="{}") if kind and len(table) else table


def small(table):
    """A table as a page has it: (list of `markup.Small`, note)."""
    return {side_by_side: _beside_smalls, by_method: _summary_smalls, None: smalls_of_any}[_kind(table) if len(table) else None](table)


def _kind(table):
    columns = set(checked_rows(table, [], "what a page shows").columns)
    return side_by_side if {"paper", "ours", "group"} <= columns else by_method if {"mean", "low", "high", "method", "metric"} <= columns else None


# -- a printed table and ours -----------------------------------------------------------------------------------------


def side_by_side(compared, bold="**{}**"):
    """A paper's table with ours beside it: the result of `compare`, one row per method, text as it is shown.

    Columns: map (`sign_of`), then per group the paper's number as printed, ours with as many decimals, and our interval. Where several groups have the same
    stand-in, ours is shown once, after the paper's last. The best of a column is set by `bold`, though none of ours with a tenth of
    its maps empty or more; where nothing was run the cell says so.
    """
    rows, several = _beside(checked_rows(compared, COMPARED, "what `compare` returns"), bold), compared["group"].nunique() > 1
    flat = {name: {": ".join([" / ".join(key[:-1])] * (several and len(key) > 1) + [key[-1]]): text for key, text in row.items()} for name, row in rows.items()}
    return pd.DataFrame.from_dict(flat, orient="index").rename_axis("method").fillna("")


def _beside(compared, bold):
    """{heading: {(parts of the group's name, "paper", "ours" or "95 %") or ("map",): text}}."""
    rows, groups = {}, {key: part for key, part in compared.groupby(["group", "metric"], sort=False)}
    alike = {key: [other for other, part in groups.items() if _same_ours(part, groups[key])] for key in groups}
    for (group, metric), part in groups.items():
        digits, same = part["printed"].map(_decimals).max(), alike[group, metric]
        direction, name, both = higher_is_better(metric), tuple(group.split(" / ")), _together([name for name, _ in same])
        for cell in part.to_dict("records"):
            row = rows.setdefault(cell["heading"], {("map",): ""})
            row["map",] = sign_of(cell, row["map",])
            row[*name, "paper"] = _shown(cell["printed"], cell["paper"], part["paper"], direction, digits, bold)
            if (group, metric) != same[-1]:
                continue
            missing = pd.isna(cell["ours"])
            ours = cell["status"].split(":")[0] if missing else f"{cell['ours']:.{digits}f}"
            row[*both, "ours"] = _shown(ours, *_with_maps(cell, part, "ours"), direction, digits, bold)
            row[*both, "95 %"] = "" if missing else f"{cell['low']:.{digits}f} to {cell['high']:.{digits}f}"
    return rows


def _same_ours(one, other):
    """Whether two groups show the same numbers of ours: the metric, the data set and the model that stand in, and method for method."""
    facts = [part[["heading", "metric", "used", "ours", "low", "high"]].set_index("heading").sort_index() for part in (one, other)]
    return one is other or (one["ours"].notna().any() and facts[0].equals(facts[1]))


def _together(names):
    """The parts of several groups' names as those of one: what they begin with alike is said once."""
    *start, last = names[0].split(" / ")
    if len(names) == 1:
        return *start, last
    begin = " / ".join([*start, ""])
    alike = bool(start) and all(name.startswith(begin) for name in names)
    return (*start, ", ".join(name.removeprefix(begin) for name in names)) if alike else (", ".join(names),)


def _beside_smalls(compared):
    """A printed table in small ones of at most GROUPS groups: a metric is divided only where it alone has more."""
    compared = checked_rows(compared, COMPARED, "what `compare` returns")
    smalls = [_beside_small(compared[[key in chunk for key in zip(compared["group"], compared["metric"])]]) for chunk in _chunks(compared)]
    arrows = "\u2191: higher is better, \u2193: lower." if any(arrow in str(one.columns) for one in smalls for arrow in "\u2191\u2193") else ""
    said = [standing_in(compared["stands_in"]), counted(compared[compared["n"] > 0]), INTERVALS * bool(compared["ours"].notna().any()), arrows]
    smalls, signs = _signs_once(smalls)
    return smalls, " ".join(filter(None, [*said, signs]))


def _chunks(compared):
    by_metric = {}
    for group, metric in compared[["group", "metric"]].drop_duplicates().itertuples(index=False, name=None):
        by_metric.setdefault(metric, []).append((group, metric))
    if max(map(len, by_metric.values())) == 1:
        return divided([groups[0] for groups in by_metric.values()], GROUPS)
    chunks = []
    for groups in by_metric.values():
        if chunks and len(chunks[-1]) + len(groups) <= GROUPS:
            chunks[-1] += groups
        else:
            chunks += divided(groups, GROUPS)
    return chunks


def divided(things, most):
    """A list in parts of at most so many, as equal as can be."""
    parts = -(-len(things) // most)
    return [list(part) for part in (things[len(things) * n // parts : len(things) * (n + 1) // parts] for n in range(parts))]


def _beside_small(compared):
    rows, metrics = _beside(compared, "**{}**"), compared["metric"].unique()
    keys = [key for key in dict.fromkeys(key for row in rows.values() for key in row) if key[-1] in ("paper", "ours")]
    names = [tuple(group.split(" / ")) for group in compared["group"].unique()]
    common = _in_common([*names, *(key[:-1] for key in keys)])
    texts = {name: [_with_interval(row, key) for key in keys] for name, row in rows.items()}
    direction = {group: higher_is_better(metric) for group, metric in zip(compared["group"], compared["metric"])}
    unit = " (%)" if set(compared["unit"]) == {"%"} and not compared["group"].str.contains("%").any() else ""
    signs = {name: row["map",] for name, row in rows.items()}
    columns = [key[common:] for key in keys]
    if len(metrics) > 1:
        arrows = [_ARROWS[direction.get(" / ".join(key[:-1]))] for key in keys]
        columns = [(*key[:-2], key[-2] + arrow, key[-1]) if len(key) > 1 else key for key, arrow in zip(columns, arrows)]
    if any(signs.values()):
        columns, texts = [*columns, ("map",)], {name: [*row, signs[name]] for name, row in texts.items()}
    return Small(_title(metrics, names[0][:common], unit), "method", columns, list(texts.items()))


def _in_common(names):
    """How many parts all names begin with."""
    same = [len(set(parts)) == 1 for parts in zip(*names)]
    return same.index(False) if False in same else len(same)


def as_printed(cells):
    """One printed table, of `published`, as its page has it: ([a `markup.Small`], what we remark on its cells). Bold is what the paper sets bold."""
    names = [tuple(column.split(" / ")) for column in cells["column"].unique()]
    common = min(_in_common(names), min(map(len, names)) - 1)
    texts = {(cell["row"], cell["column"]): f"**{cell['printed']}**" if cell["mark"] == "best" else cell["printed"] for cell in cells.to_dict("records")}
    rows = [(row, [texts.get((row, column), "") for column in cells["column"].unique()]) for row in cells["row"].unique()]
    remarks = [note + _where(part) for note, part in cells[cells["note"] != ""].groupby("note", sort=False)]
    return [Small(" / ".join(names[0][:common]), "", [name[common:] for name in names], rows)], f"Our remarks: {'. '.join(remarks)}." if remarks else ""


def _where(cells):
    """Which cells a remark is about, where these are few."""
    places = list(cells["row"] + ", " + cells["column"]) if len(cells) < 3 else list(cells["row"].unique())
    return f" ({'; '.join(places)})" if len(places) < 4 else ""


def _title(metrics, common, unit):
    """What a small table's numbers are: the metric, unless the paper's headings begin with its name, and the headings that all columns share."""
    said = " / ".join(common)
    if len(metrics) > 1:
        return said + unit
    return (said if named(said, metrics[0]) else f"{metrics[0]}: {said}" if said else metrics[0]) + unit + _WORDS[higher_is_better(metrics[0])]


def _with_interval(row, key):
    text, interval = row.get(key, ""), row.get((*key[:-1], "95 %"), "") if key[-1] == "ours" else ""
    return f"{text} ({interval})" if interval else text


def _with_maps(cell, part, column):
    """The value of a cell and those of its column, without those of a tenth of empty maps or more."""
    full = ~(part["empty"] >= EMPTY) if "empty" in part else slice(None)
    return np.nan if cell.get("empty", 0) >= EMPTY else cell[column], part.loc[full, column]


def _decimals(printed):
    return len(printed.partition(".")[2].rstrip("%*")) if "." in printed and "e" not in printed else 0 if printed.isdigit() else 3


def _shown(text, value, values, direction, digits, bold):
    """Text, bold where its value is the best of its column to the digits shown."""
    values = values.dropna().round(digits)
    if direction is None or pd.isna(value) or len(values) < 2:
        return text
    return bold.format(text) if round(value, digits) == (values.max() if direction else values.min()) else text


def _signs_once(smalls):
    """Small tables without their last column, the signs of maps, where these are all the same; and a sentence that says so."""
    signs = {texts[-1] for one in smalls for _, texts in one.rows if one.columns[-1] == ("map",)} - {""}
    if len(signs) != 1:
        return smalls, ""
    shorter = [one._replace(columns=one.columns[:-1], rows=[(name, texts[:-1]) for name, texts in one.rows]) for one in smalls]
    return [less if one.columns[-1] == ("map",) else one for one, less in zip(smalls, shorter)], {"\u00b1": "Every method has maps with negative values."}.get(*signs, "No map has a negative value.")


# -- a summary --------------------------------------------------------------------------------------------------------


def by_method(summarised, percent=True, bold="**{}**"):
    """A summary laid out with one row per method, a column `map` (`sign_of`) and one column per metric, text as it is shown, the best set by `bold`,
    though none with a tenth of its maps empty or more; their share is said.

    percent: shares in percent, with "(%)" in the heading; what is no share (NO_SHARES) stays as it is. Where the summary holds several data sets, models or
    settings, the row's name says which.
    """
    summarised = checked_rows(summarised, _SUMMARY, "what `summary` returns")
    keys = [k for k in ("dataset", "model", "method", "hyper") if k in summarised and (k == "method" or summarised[k].nunique() > 1)]
    rows = {}
    for where, part in summarised.groupby([k for k in ("dataset", "model", "metric") if k in summarised], sort=False):
        metric = part["metric"].iat[0]
        share = percent and metric not in NO_SHARES
        unit, digits, column = (100, 1, f"{metric} (%)") if share else (1, 3, metric)
        for cell in part.to_dict("records"):
            row = rows.setdefault(", ".join(str(cell[k]) for k in keys if cell[k] != "{}"), {"map": ""})
            row["map"] = sign_of(cell, row["map"])
            if pd.isna(cell["mean"]):
                row[column] = re.split("[;:]", cell["status"])[0]
                continue
            text = f"{cell['mean'] * unit:.{digits}f}"
            text = _shown(text, *_with_maps(cell, part, "mean"), higher_is_better(metric), digits + 2 * share, bold)
            row[column] = f"{text} ({cell['low'] * unit:.{digits}f} to {cell['high'] * unit:.{digits}f})"
            row[column] += f", {cell['empty']:.0%} empty" if cell.get("empty", 0) >= EMPTY else ""
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").fillna("")


def sign_of(cell, others=""):
    """The signs of the maps of a cell, and of others: "\u2265 0" where none has a negative value, "\u00b1" where some have, "" where nothing says so."""
    share = cell.get("negative", np.nan)
    return others if pd.isna(share) else "\u00b1" if share > 0 or others == "\u00b1" else "\u2265 0"


def _summary_smalls(summarised):
    """A summary in small tables: one for each data set and model, of at most METRICS metrics; methods without any number are named in the note."""
    where = [key for key in ("dataset", "model") if key in summarised]
    places = summarised.groupby(where, sort=False).ngroups if where else 1
    if places > 1 and len(summarised) < 3 * places * summarised["metric"].nunique():
        where = [key for key in where if summarised[key].nunique() == 1]  # each network with methods of its own: one table, whose rows say which network
    smalls, silent = [], {}
    for place, part in summarised.groupby(where, sort=False) if where else [((), summarised)]:
        part, without = _without_silent(part.drop(columns=where))
        silent |= without
        smalls += _place_smalls(", ".join(place), part) if len(part) else []
    smalls, signs = _signs_once(smalls)
    said = [counted(summarised[summarised["mean"].notna()]), INTERVALS, "\u2191: higher is better, \u2193: lower.", signs]
    return smalls, " ".join(filter(None, [*said, f"No number: {'; '.join(silent)}." if silent else ""]))


def _without_silent(part):
    """The rows of the methods that have some number, and why the others have none: {sentence: None}."""
    known = part.groupby("method")["mean"].transform("count") > 0
    if not known.any():
        return part, {}
    reasons = part[~known].drop_duplicates("method")[["method", "status"]].itertuples(index=False)
    return part[known], {status if method in status else f"{method} ({re.split('[;:]', status)[0]})": None for method, status in reasons}


def _place_smalls(place, part):
    directions = {f"{metric}{unit}": higher_is_better(metric) for metric in part["metric"].unique() for unit in ("", " (%)")}
    table = by_method(part)
    signs = table.pop("map")
    for columns in divided(list(table), METRICS):
        heads = [(column + _ARROWS[directions[column]],) for column in columns] + [("map",)] * any(signs)
        yield Small(place, "method", heads, [(name, [*row, *[signs[name]] * any(signs)]) for name, row in zip(table.index, table[columns].to_numpy())])
