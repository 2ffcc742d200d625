"""The stored outputs of the executed notebooks are what running them again gives."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from xai_repro.site import driver

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")]

# What differs from run to run and says nothing: addresses of objects, and the names pandas gives its styled tables.
VOLATILE = """
[addresses]
regex: 0x[0-9a-f]+
replace: ADDRESS

[styled tables]
regex: T_[0-9a-f]{5}
replace: TABLE
"""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # another number of threads adds in another order: other last digits


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Results of the smoke profile, without the shards: the numbers have to be computed again, not read."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with pytest.MonkeyPatch.context() as patch:
        for name in THREADS:
            patch.setenv(name, "1")
        assert driver.run(profile="smoke", results=first, folder=ROOT / "notebooks")
    place = second / "smoke"
    shutil.copytree(first / "smoke", place, ignore=shutil.ignore_patterns("shards", "logs", ".*"))
    return place


def nbval(folder):
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-q",
               "--nbval-sanitize-with", folder / "nbval.cfg",
               "--rootdir", folder, "-c", folder / "pytest.ini", folder]  # fmt: skip
    (folder / "nbval.cfg").write_text(VOLATILE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    shutil.copyfile(ROOT / "tests/conftest.py", folder / "conftest.py")
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | dict.fromkeys(THREADS, "1"))


def test_every_cell_was_run(executed):
    for path in (executed / "notebooks").glob("*.ipynb"):
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
        assert all(cell.execution_count for cell in cells), path.name
        assert not any(o.get("name") == "stderr" for cell in cells for o in cell.outputs), f"{path.name} prints to stderr"


def test_running_again_gives_the_stored_outputs(executed):
    result = nbval(executed / "notebooks")
    assert result.returncode == 0, result.stdout[-6000:]


def test_a_changed_number_is_noticed(executed, tmp_path):
    path, number = _first_number(executed / "notebooks")
    shutil.copytree(executed, tmp_path / "smoke")
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
