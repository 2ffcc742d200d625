"""The claims of all papers at first sight: a tile for each, and a line for each paper on what was run. Plain HTML: its looks are in book/_static/home.css."""

import json
import re
from html import escape
from pathlib import Path

import pandas as pd

from xai_repro.published import papers, published
from xai_repro.study.claims import COLUMNS, OUTCOMES, SIGNS, with_interval
from xai_repro.study.markup import CLASSES
from xai_repro.study.notes import in_place, listed
from xai_repro.study.statistics import checked_rows

OPEN = ("not comparable", "not run yet")  # outcomes that no data decided
WORDS = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), **{word: (word, word) for word in ("undecided", *OPEN)}}
CHECKED = "claims are the table that `check` returns"
HERE = "90_claims"  # the page of all claims: where a tile leads whose claim no other page tests


# -- where a claim is tested ------------------------------------------------------------------------------------------------


def tested(results):
    """Where each claim is tested: its id -> the page and the section, as "NAME.html#section".

    results: folder of a profile's results. Read from the tables of claims that the notebooks left there (`claims.show`), and from the executed notebooks
    which section shows them. Of several pages it is the one that had the rows; of these, the one with the fewest claims.
    """
    found = {}
    for file in sorted(Path(results).glob("[0-8]*/claims*.parquet")):
        table = pd.read_parquet(file, columns=["id", "outcome"])
        place = file.parent.name + ".html" + _section(Path(results, "notebooks", f"{file.parent.name}.ipynb"), file.stem)
        for claim, outcome in table.itertuples(index=False):
            found.setdefault(claim, []).append((outcome == "not run yet", len(table), place))
    return {claim: min(places)[2] for claim, places in found.items()}


def _section(notebook, table):
    """The anchor of the section of a notebook that shows a table; "" where there is none, or it is the page itself."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
    anchor = ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and f"/{table}.csv" in source:
            return anchor
        for level, words in re.findall(r"^(#+) (.+)$", source, re.M) if cell["cell_type"] == "markdown" else ():
            anchor = f"#{slug(words)}" if len(level) > 1 else ""
    return ""


def slug(heading):
    """The name that a page gives a section."""
    return re.sub(r"^[^a-z]+|-+$", "", re.sub(r"[^a-z0-9]+", "-", heading.lower()))


# -- what was run -----------------------------------------------------------------------------------------------------------


def status(checked, results):
    """What was run of each paper: its key -> a list of sentences in plain text, of its claims, of its printed tables and of what stands in, if anything.

    checked: of `claims.check`. results: folder of the profile's results: a printed table counts as run again where a notebook set numbers of ours beside
    it. A claim or a table is on original data only where neither its data set nor its network had a stand-in.
    """
    checked, tables = checked_rows(checked, COLUMNS, CHECKED), _tables(results)
    return {paper: _status(part, tables[paper], published(paper)["table"].nunique()) for paper, part in checked.groupby("paper", sort=False)}


def _status(part, tables, printed):
    decided = part[~part["outcome"].isin(OPEN)]
    ours = in_place(decided["stands_in"])
    stand_ins = int((decided["stands_in"] != "").sum())
    claims = [(len(decided) - stand_ins, "on original data"), (stand_ins, "on stand-ins")]
    claims += [(int((part["outcome"] == outcome).sum()), outcome) for outcome in reversed(OPEN)]
    replaced = sum(tables.values())
    rerun = [(len(tables) - replaced, "on original data"), (replaced, "on stand-ins"), (printed - len(tables), "not run yet")]
    instead = "; ".join(f"{name} for {listed(theirs)}" for name, theirs in ours.items())
    return [f"Claims: {_counted(claims)}.", f"Printed tables: {_counted(rerun)}.", *([f"Stand-ins: {instead}."] if ours else [])]


def _tables(results):
    """Paper -> {number of a printed table that was run again: whether on a stand-in}.

    Those that executed notebooks say they make (`makes` in their metadata), and those with numbers of ours beside them (`tables.compare`). What nothing is
    known of counts as run on a stand-in, and a comparison without any number of ours as not run.
    """
    found = {paper: {} for paper in papers()}
    for notebook in sorted(Path(results, "notebooks").glob("[0-8]*.ipynb")):
        for made in json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("xai_repro", {}).get("makes", []):
            paper, number = made.split()
            found[paper][number] = True
    compared = [pd.read_parquet(file) for file in sorted(Path(results).glob("[0-8]*/*.parquet"))]
    compared = [table for table in compared if {"paper_key", "table", "ours", "stands_in"} <= set(table.columns)]
    for (paper, number), part in pd.concat(compared).groupby(["paper_key", "table"]) if compared else ():
        found[paper].pop(number, None)
        if part["ours"].notna().any():
            found[paper][number] = bool((part["stands_in"][part["ours"].notna()] != "").any())
    return found


def said(checked):
    """What came out of all claims, in two sentences."""
    counts, many = checked["outcome"].value_counts(), checked["paper"].nunique()
    found = [f"{counts[outcome]} {_are(outcome, counts[outcome])}" for outcome in OUTCOMES if outcome in counts]
    original = int((~checked["outcome"].isin(OPEN) & (checked["stands_in"] == "")).sum())
    on = "None was" if not original else "1 was" if original == 1 else f"{original} were"
    return (
        f"Of {len(checked)} claims of {many} papers, {listed(found)}. {on} tested on the paper's own data and networks: "
        "what stands in for these can show whether an order carries over, and is no replication."
    )


# -- as a page shows it -----------------------------------------------------------------------------------------------------


def html(checked, places, lines, root=""):
    """The scoreboard: for each paper its name, how its claims came out, a tile for each claim, and how much was run on what.

    checked: of `claims.check`. places: of `tested`. lines: of `status`. root: the way from the page to that of the start, "../" or "".
    A tile is a link to where its claim is tested. What it says of the claim shows when the pointer is on it, when it has the focus, and after a touch.
    """
    checked = checked_rows(checked, COLUMNS, CHECKED)
    rows = [_row(paper, part, places, lines[paper], root) for paper, part in checked.groupby("paper", sort=False)]
    signs = "".join(f'<li><b class="xr-sign {_class(outcome)}">{SIGNS[outcome][0]}</b> {outcome}</li>' for outcome in OUTCOMES)
    return f'<div class="xr-board">\n<ul class="xr-legend" aria-label="What the tiles mean">{signs}</ul>\n{"".join(rows)}</div>\n'


def _row(paper, part, places, lines, root):
    counts = part["outcome"].value_counts()
    found = ", ".join(f"{counts[outcome]} {WORDS[outcome][int(counts[outcome] > 1)]}" for outcome in OUTCOMES if outcome in counts and outcome not in OPEN)
    count = f"{len(part)} claims" + (f": {found}" if found else "")
    name, tiles = escape(papers()[paper]["name"]), "".join(_tile(row, places, root) for row in part.to_dict("records"))
    return (
        f'<div class="xr-paper">\n<p class="xr-name"><a href="{root}papers/{paper}.html">{name}</a> <span>{count}</span></p>\n'
        f'<ul class="xr-tiles" aria-label="Claims of {name}">\n{tiles}</ul>\n<p class="xr-run">{escape(" ".join(lines[:2]))}</p>\n</div>\n'
    )


def _tile(row, places, root):
    place, name = places.get(row["id"], f"{HERE}.html"), f"claim-{slug(row['id'])}"
    sign, outcome = SIGNS[row["outcome"]].split(" ", 1)
    numbers = with_interval(row["estimate"], row["low"], row["high"])
    sizes = ", ".join(f"{row[key]:.0f} {unit}{'s' if row[key] > 1 else ''}" for key, unit in (("n", "image"), ("networks", "network")) if row["n"])
    facts = "; ".join(filter(None, [f"{numbers}, 95 % interval" if numbers else "", sizes, row["stands_in"]]))
    source = f"{row['place']}; tested in {place.split('.')[0]}"
    note = f"<strong>{sign} {outcome}</strong> {escape(row['says'])} <span>{escape(facts)}</span> <span>{escape(source)}</span>"
    return (  # the item takes a first touch, which opens the note; the second follows the link
        f'<li class="xr-tile {_class(row["outcome"])}" tabindex="-1"><a href="{root}notebooks/{place}" aria-labelledby="{name}">'
        f'<b aria-hidden="true">{sign}</b><span class="xr-tip" id="{name}">{note}</span></a></li>\n'
    )


def _class(outcome):
    return CLASSES.get(outcome, "xr-other")


def _are(outcome, many):
    """An outcome as what a sentence says of so many claims."""
    word = WORDS[outcome][int(many > 1)]
    return word if outcome in ("holds", "fails") else f"{'are' if many > 1 else 'is'} {word}"


def _counted(numbers):
    return ", ".join(f"{many} {words}" for many, words in numbers if many) or "none"
