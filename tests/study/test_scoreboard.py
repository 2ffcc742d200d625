"""The scoreboard: every claim has its tile, its outcome, its numbers and the section that tests it; what was run is counted and never overstated."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from xai_repro.study import claims, scoreboard

STOOD = "mini-birds for imagenet, mini-vgg for vgg16"


def checked(*rows):
    """A table as `claims.check` returns it: (paper, outcome, stands_in) of each claim."""
    base = {"place": "Table 7", "says": "A < B & C", "estimate": 0.25, "low": 0.1, "high": 0.4, "n": 24, "networks": 5}
    base |= dict.fromkeys(("detail", "paper_outcome", "paper_count"), "")
    every = [base | {"id": f"c{i}", "paper": paper, "outcome": outcome, "stands_in": stood} for i, (paper, outcome, stood) in enumerate(rows)]
    return pd.DataFrame(every, columns=claims.COLUMNS)


def left(folder, name, ids, outcome="holds", cells=(), table="claims"):
    """What a notebook leaves: its table of claims and its executed copy."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"id": ids, "outcome": outcome, "n": 24}).to_parquet(folder / name / f"{table}.parquet")
    (folder / "notebooks").mkdir(exist_ok=True)
    found = [{"cell_type": kind, "source": source.splitlines(keepends=True)} for kind, source in cells]
    (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps({"cells": found, "metadata": {}}))


class Links(HTMLParser):
    """The tiles of a page: class, link, and the words that name it."""

    def __init__(self, text):
        super().__init__()
        self.tiles, self.ids, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.open.append(given.get("id"))
        if given.get("class", "").startswith("xr-tile "):
            self.tiles.append({"class": given["class"].split()[1], "tabindex": given["tabindex"]})
        elif tag == "a" and "aria-labelledby" in given:
            self.tiles[-1] |= {"href": given["href"], "name": given["aria-labelledby"]}
        if "id" in given:
            assert given["id"] not in self.ids
            self.ids[given["id"]] = ""

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        for one in filter(None, self.open):
            self.ids[one] += data


def test_a_tile_names_claim_estimate_and_interval_and_leads_to_its_section():
    rows = checked(("clam", "holds", STOOD), ("clam", "fails", STOOD), ("lift_cam", "undecided", ""), ("lift_cam", "not run yet", ""))
    rows.loc[3, ["estimate", "low", "high", "n"]] = [float("nan")] * 3 + [0]
    page = Links(scoreboard.html(rows, {"c0": "40_clam_pointing.html#the-claims"}, {"clam": ["x"], "lift_cam": ["y"]}, "../"))
    assert [tile["class"] for tile in page.tiles] == ["xr-holds", "xr-fails", "xr-undecided", "xr-other"]
    assert page.tiles[0]["href"] == "../notebooks/40_clam_pointing.html#the-claims" and page.tiles[1]["href"] == "../notebooks/90_claims.html"
    assert all(tile["tabindex"] == "-1" and tile["name"] in page.ids for tile in page.tiles)
    first, last = (page.ids[page.tiles[i]["name"]] for i in (0, 3))
    assert first == f"\u2713 holds A < B & C 0.25 (0.1 to 0.4), 95 % interval; 24 images, 5 networks; {STOOD} Table 7; tested in 40_clam_pointing"
    assert "95 %" not in last and "images" not in last and last.startswith("\u2013 not run yet")


def test_outcomes_are_told_apart_without_colour_and_counted():
    text = scoreboard.html(checked(("clam", "holds", ""), ("clam", "holds", ""), ("clam", "not comparable", "")), {}, {"clam": ["On <b>.", "Two.", "Three."]})
    assert re.findall(r'<b aria-hidden="true">(.)</b>', text) == ["\u2713", "\u2713", "\u2260"]
    assert "3 claims: 2 hold<" in text and 'href="papers/clam.html">CLAM<' in text and ">On &lt;b&gt;. Two.</p>" in text
    assert "style=" not in text and "<script" not in text


def test_a_claim_is_tested_where_its_rows_are_and_in_the_table_that_is_about_it(tmp_path):
    cells = [("markdown", "# Title\n\nasked"), ("markdown", "## A table\n"), ("code", "tables.show(x)"), ("markdown", "## The claim of section 5.2.2")]
    cells.append(("code", 'claims.show(checked, f"{folder}/claims.csv")'))
    left(tmp_path, "10_lift_cam_all", ["a", "b", "c"], ["holds", "fails", "not run yet"], [("markdown", "# Title"), *cells[-1:]])
    left(tmp_path, "14_lift_cam_few", ["b", "c"], ["fails", "holds"], cells)
    left(tmp_path, "90_claims", ["a"], "holds", cells)  # a summary tests nothing
    section = "14_lift_cam_few.html#the-claim-of-section-5-2-2"
    assert scoreboard.tested(tmp_path) == {"a": "10_lift_cam_all.html", "b": section, "c": section}
    cells += [("markdown", "## 3 Cost, counted!"), ("code", 'claims.show(x, f"{folder}/claims_of_time.csv")')]
    left(tmp_path, "10_lift_cam_all", ["t"], "not comparable", cells, "claims_of_time")
    assert scoreboard.tested(tmp_path)["t"] == "10_lift_cam_all.html#cost-counted"


def test_the_status_says_what_stood_in_and_what_is_missing(tmp_path):
    (tmp_path / "notebooks").mkdir()
    metadata = {"xai_repro": {"makes": ["clam 1", "clam 2", "clam 3"]}}  # 2: a table of another kind, 3: without a number of ours
    (tmp_path / "notebooks/40_clam_pointing.ipynb").write_text(json.dumps({"cells": [], "metadata": metadata}))
    (tmp_path / "40_clam_pointing").mkdir()
    table = pd.DataFrame({"table": ["1", "1", "3", "4", "4"], "ours": [0.5, None, None, 0.2, 0.1], "stands_in": ["a for b", "", "", "", "a for b"]})
    table = pd.concat([table.assign(paper_key="clam"), table[3:4].assign(paper_key="lfi_cam", table="1")])
    table.to_parquet(tmp_path / "40_clam_pointing/table.parquet")
    some = [("clam", "holds", STOOD), ("clam", "fails", f"{STOOD}, mini-vgg for vgg19"), ("clam", "not run yet", ""), ("clam", "not comparable", "")]
    rows = checked(*some, ("lfi_cam", "undecided", ""))
    found = scoreboard.status(rows, tmp_path)
    assert found["clam"] == [
        "Claims: 2 on stand-ins, 1 not run yet, 1 not comparable.", "Printed tables: 3 on stand-ins, 1 not run yet.",
        "Stand-ins: mini-birds for imagenet; mini-vgg for vgg16 and vgg19.",
    ]  # fmt: skip
    assert found["lfi_cam"] == ["Claims: 1 on original data.", "Printed tables: 1 on original data."]


@pytest.mark.parametrize("stood, words", [(STOOD, "None was tested on the paper's own data"), ("", "1 was tested on the paper's own data")])
def test_what_came_out_in_words(stood, words):
    told = scoreboard.said(checked(("clam", "holds", STOOD), ("clam", "holds", STOOD), ("lfi_cam", "fails", stood), ("lfi_cam", "not run yet", "")))
    assert told.startswith("Of 4 claims of 2 papers, 2 hold, 1 fails and 1 is not run yet. ") and words in told and "no replication" in told
