"""The stored outputs of the executed notebooks are what running them again gives: the first half of the notebooks."""

import re
import shutil

import nbformat
import pytest
from again import check_cells, executed, HALVES, nbval, NOTEBOOKS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return executed(HALVES[0], tmp_path_factory.mktemp("nbval"))


def test_the_halves_are_all_notebooks():
    assert sorted(sum(HALVES, [])) == [path.stem for path in NOTEBOOKS] and min(map(len, HALVES)) > 5


def test_every_cell_was_run(done):
    check_cells(done)


def test_running_again_gives_the_stored_outputs(done):
    result = nbval(done / "notebooks")
    assert result.returncode == 0, result.stdout[-6000:]


def test_a_changed_number_is_noticed(done, tmp_path):
    path, number = _first_number(done / "notebooks")
    shutil.copytree(done, tmp_path / "smoke")
    folder = tmp_path / "smoke/notebooks"
    for other in folder.glob("*.ipynb"):
        if other.name != path.name:
            other.unlink()
    text = path.read_text()
    changed = f"{number[:-1]}{(int(number[-1]) + 1) % 10}"
    notebook = nbformat.reads(text, as_version=4)
    for output in (o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "data" in o):
        for kind in ("text/plain", "text/html"):
            if kind in output.data:
                output.data[kind] = output.data[kind].replace(number, changed)
    nbformat.write(notebook, folder / path.name)
    result = nbval(folder)
    assert result.returncode == 1 and changed in result.stdout, result.stdout[-3000:]


def _first_number(folder):
    """A decimal number in a table that some notebook shows and nbval compares, and that notebook."""
    for path in sorted(folder.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "nbval-ignore-output" in cell.metadata.get("tags", []):
                continue
            for output in cell.get("outputs", []):
                if found := re.search(r">(\d+\.\d{2,})<", output.get("data", {}).get("text/html", "")):
                    return path, found.group(1)
    pytest.fail("no notebook shows a number")
