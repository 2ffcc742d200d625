"""The printed numbers: complete, unique, and equal to the characters of the paper."""

import re

import pytest

from xai_repro.errors import UnknownName
from xai_repro.published import papers, published

COLUMNS = ["paper", "table", "row", "column", "dataset", "model", "method", "metric", "value", "printed", "unit", "mark", "note"]


def test_all_five_papers_are_there():
    table = published()
    assert list(table.columns) == COLUMNS
    assert set(table.paper) == set(papers()) == {"lfi_cam", "lift_cam", "collection_cam", "gradient_hedging", "clam"}
    assert {frozenset(record) for record in papers().values()} == {frozenset({"name", "title", "venue"})}


@pytest.mark.parametrize("paper", papers())
def test_cells_are_unique_and_named(paper):
    table = published(paper)
    assert not table.duplicated(["paper", "table", "row", "column"]).any()
    assert (table[["row", "column", "method", "metric", "printed"]] != "").all(axis=None)
    assert table.value.dtype == float and set(table.unit) <= {"", "%", "ms"} and set(table["mark"]) <= {"", "best"}


@pytest.mark.parametrize("paper", papers())
def test_values_are_what_is_printed(paper):
    for printed, value, note in published(paper)[["printed", "value", "note"]].itertuples(index=False):
        if re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?%?", printed) and "decimal point missing" not in note and "stride 0" not in note:
            assert float(printed.rstrip("%")) == value


def test_a_table_is_a_part_of_its_paper():
    table = published("lift_cam", 7)
    assert set(table.table) == {"7"} and len(table) == 66
    assert published("lift_cam", "7").equals(table)
    table.loc[0, "value"] = -1  # the caller's copy
    assert published("lift_cam", 7).value[0] != -1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("lift-cam",), "did you mean 'lift_cam'"), (("lift_cam", 77), "did you mean '7'"), (("clam", "x"), "possible: 1, 2, 3, 4")],
)
def test_wrong_names(arguments, message):
    with pytest.raises(UnknownName, match=message):
        published(*arguments)


def test_a_table_of_no_paper():
    with pytest.raises(ValueError, match="of which paper"):
        published(table=3)
