"""Executed notebooks, and nbval over them: for the tests of the stored outputs, of which each process takes some notebooks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from xai_repro.site import driver, places
from xai_repro.site.preload import ADDRESS, command as command_of_kernel, preloaded

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FIRST = [path.stem for path in NOTEBOOKS if path.stem < "22" or path.stem.startswith("92")]  # the choice of a method reads what these leave
HALVES = FIRST, [path.stem for path in NOTEBOOKS if path.stem not in FIRST]  # of about the same length

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


def executed(names, folder):
    """Results of the smoke profile, without the shards: the numbers have to be computed again, not read. Two folders are made in folder."""
    first, place = folder / "first", folder / "second" / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        for name in THREADS:
            patch.setenv(name, "1")
        assert driver.run(names, profile="smoke", results=first, folder=ROOT / "notebooks", jobs=1)  # the other half runs meanwhile
    shutil.copytree(first / "smoke", place, ignore=shutil.ignore_patterns("shards", "logs", ".*"))
    return place


def with_tables(folder):
    """The notebooks that show a table to be compared: of pictures alone only the words would be, and of measured times nothing."""
    return [path for path in sorted(folder.glob("*.ipynb")) if any("<table" in text for text in _compared(path))]


def _compared(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and "nbval-ignore-output" not in c.metadata.get("tags", [])]
    return [output.get("data", {}).get("text/html", "") for cell in cells for output in cell.outputs]


def nbval(folder):
    notebooks = with_tables(folder)
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-q",
               "--nbval-sanitize-with", folder / "nbval.cfg",
               "--rootdir", folder, "-c", folder / "pytest.ini", *notebooks]  # fmt: skip
    (folder / "nbval.cfg").write_text(VOLATILE)
    kernel = folder / "jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    shutil.copyfile(ROOT / "tests/conftest.py", folder / "conftest.py")
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"JUPYTER_PATH": str(folder / "jupyter")}
    with places.private() as sockets, preloaded(sockets, environment, len(notebooks)) as environment:
        argv = command_of_kernel(environment[ADDRESS], "{connection_file}") if ADDRESS in environment else [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def check_cells(place):
    """Every cell was run, and none prints to stderr."""
    for path in (place / "notebooks").glob("*.ipynb"):
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
        assert all(cell.execution_count for cell in cells), path.name
        assert not any(o.get("name") == "stderr" for cell in cells for o in cell.outputs), f"{path.name} prints to stderr"
