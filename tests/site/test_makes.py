"""Which tables of the papers a notebook makes is in its metadata, and true."""

import ast
from pathlib import Path

import nbformat
import pytest

from xai_repro.published import published
from xai_repro.site import driver
from xai_repro.study import clam, hedging, lfi_cam, stability

ROOT = Path(__file__).parents[2]
NOTEBOOKS = driver.select(None, ROOT / "notebooks")
MODULES = {"clam": clam, "hedging": hedging, "lfi_cam": lfi_cam, "stability": stability}
MADE = {"hedging.table_1": "gradient_hedging 1", "hedging.table_2": "gradient_hedging 2", "timing.table": "collection_cam 2", "lfi_cam.layout": "lfi_cam 1"}  # other functions than compare


def made_by(source):
    """The tables that code of a notebook sets beside the printed ones, from its calls; a number may be that of a loop."""
    tree, found = ast.parse(source), []
    loops = {node.target.id: ast.literal_eval(node.iter) for node in ast.walk(tree) if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        called = f"{getattr(call.func.value, 'id', '')}.{call.func.attr}"
        if called in MADE:
            found.append(MADE[called])
        elif called == "tables.compare":
            _, paper, number = call.args[:3]
            paper = getattr(MODULES[paper.value.id], paper.attr) if isinstance(paper, ast.Attribute) else paper.value
            numbers = loops[number.id] if isinstance(number, ast.Name) else [number.value]
            found += [f"{paper} {one}" for one in numbers]
    return set(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_metadata_say_what_the_code_makes(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert set(driver.about(path).get("makes", [])) == set().union(*map(made_by, code))


def test_every_printed_table_but_one_is_made_once():
    every = [name for path in NOTEBOOKS for name in driver.about(path).get("makes", [])]
    printed = {f"{paper} {table}" for paper, table in published()[["paper", "table"]].drop_duplicates().itertuples(index=False)}
    assert sorted(every) == sorted(printed - {"collection_cam 1"})  # an excerpt of table 3 with times


def test_code_is_read():
    assert made_by('for n in ("7", "8"):\n    tables.show(tables.compare(rows, "lift_cam", n, column="Average"), n)') == {"lift_cam 7", "lift_cam 8"}
    assert made_by('tables.compare(rows, clam.PAPER, "4")\nproposals.compare(a, b)') == {"clam 4"}
