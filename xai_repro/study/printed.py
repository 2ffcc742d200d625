"""What a claim comes to on the paper's own printed numbers: a comparison of points, since a paper prints no intervals."""

from functools import lru_cache
from itertools import product

import numpy as np

from xai_repro.published import published
from xai_repro.registry import metrics
from xai_repro.study import records
from xai_repro.study.outcomes import PRINTED
from xai_repro.study.statistics import higher_is_better


def on_paper(record):
    """(outcome "holds" or "fails", "k of n") of a record on the tables that it names; ("", "") where it names none.

    A comparison is made in every group of the table that has both numbers: a column, or a resolution; of repeated runs, in their average.
    Where the table pools data sets or leaves the network open, one cell stands for all that the claim names, and counts once.
    Raises ValueError where a table holds no comparison of the claim: then the record names the wrong one.
    """
    found = {}
    for table in [record["table"]] if isinstance(record.get("table"), str) else record.get("table", []):
        cells = [cell for cell in _cells(record["paper"], table) if record.get("column", "") in (*cell["group"].split(" / "), "")]
        for arguments in records.comparisons(record):
            any_metric = _labelled(arguments["metric"], cells)
            here = [cell for cell in cells if (any_metric or cell["metric"] == arguments["metric"]) and all(cell[key] in (arguments[key], "") for key in ("dataset", "model"))]
            for a, b in _pairs(here, arguments):
                sign = 1 if arguments.get("higher", higher_is_better(arguments["metric"])) else -1
                found[table, a["Index"], b and b["Index"]] = bool(_holds(record["test"], arguments, a, b, sign))
    if not found:
        if record.get("table"):
            raise ValueError(f"table {record['table']} of {record['paper']} has no number of claim {record['id']}")
        return "", ""
    share = record.get("share", 1.0)
    return "holds" if sum(found.values()) >= share * len(found) - 1e-9 else "fails", f"{sum(found.values())} of {len(found)}"


def _labelled(metric, cells):
    """Whether a metric is the label of a setting: it then stands for the one metric that the table has."""
    return metric not in metrics() and len({cell["metric"] for cell in cells}) == 1


def _holds(test, arguments, a, b, sign):
    return PRINTED[test](**arguments | {"a": a["value"], "b": b["value"] if b else np.nan, "sign": sign})


def _pairs(cells, arguments):
    """The printed cells that a comparison is about, in pairs (first method or later step, the other or None)."""
    if "sizes" in arguments:
        small, large = ([cell for cell in cells if f"({size}" in cell["group"]] for size in arguments["sizes"])
        yield from _in_groups(_of(large, arguments["method"]), _of(small, arguments["method"]), any_group=True)
    elif "methods" in arguments:
        for before, after in zip(arguments["methods"], arguments["methods"][1:]):
            yield from _in_groups(_of(cells, after), _of(cells, before))
    elif "than" in arguments:
        yield from _in_groups(_of(cells, arguments["method"]), _of(cells, arguments["than"]))
    else:
        yield from ((cell, None) for cell in _of(cells, arguments["method"]))


def _in_groups(first, second, any_group=False):
    yield from ((a, b) for a, b in product(first, second) if any_group or a["group"] == b["group"])


def _of(cells, method):
    """The cells of a method: by the heading that it is named by, else by its name where the table has it once."""
    name = method["name"] if isinstance(method, dict) else method
    labelled = [cell for cell in cells if method in (cell["heading"], *cell["heading"].split(" / "))]
    return labelled or [cell for cell in cells if cell["method"] == name and cell["alike"] == 1]


@lru_cache
def _cells(paper, table):
    """The printed numbers as fractions, of repeated runs the average, with the headings sorted into heading and group: a list of dicts."""
    cells = headed(published(paper, table))
    average = cells["group"].str.contains("Average$") & cells["group"].str.contains(" / ")
    repeated = cells["group"].str.fullmatch(r".*/ \d+").any()
    cells = cells[average] if repeated else cells
    cells = cells.assign(value=cells["value"] / cells["unit"].map(lambda unit: 100 if unit == "%" else 1))
    return [row._asdict() for row in cells.itertuples()]


def headed(cells):
    """Printed cells with their headings sorted into `heading` (names the method) and `group` (the other one; methods are compared within it).

    alike: how many cells of a group are of the same method. Where it is more than one, only the heading tells them apart.
    """
    in_rows = cells["row"].nunique() > 1 and cells.groupby("row")["method"].nunique().max() == 1
    heading, group = ("row", "column") if in_rows else ("column", "row")
    alike = cells.groupby([group, "metric", "dataset", "model", "method"])["method"].transform("size")
    return cells.assign(heading=cells[heading], group=cells[group], alike=alike)
