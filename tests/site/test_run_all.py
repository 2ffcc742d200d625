"""Run all in JupyterLab, opened in notebooks/: a notebook's code with the parameters that it has, from its own folder."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from xai_repro.site import driver
from xai_repro.site.execute import inspect

ROOT = Path(__file__).parents[2]
NOTEBOOKS = driver.select(None, ROOT / "notebooks")
AFTER_OTHERS = [path for path in NOTEBOOKS if path.stem.startswith(driver.SUMMARIES)]


def run_all(path, profile):
    """Run the cells of a notebook one after the other, in the folder that it lies in; profile takes the place of its mini."""
    names = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            source = cell.source.replace('"mini"', f'"{profile}"').replace("/mini", f"/{profile}") if "parameters" in cell.metadata.get("tags", []) else cell.source
            exec(compile(source, Path(path).name, "exec"), names)
    return names


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A project's folder of notebooks, worked in."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path / "notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_writes_goes_where_the_driver_puts_it(path):
    parameters = next(cell.source for cell in nbformat.read(path, as_version=4).cells if "parameters" in cell.metadata.get("tags", []))
    assert inspect(path)["results"] == "str" and re.search('^results: str = "../results/mini" ', parameters, re.MULTILINE) and re.search('^profile: str = "mini" ', parameters, re.MULTILINE)


@pytest.mark.parametrize("path", AFTER_OTHERS, ids=lambda path: path.stem)
def test_a_summary_says_what_comes_first(path, notebooks):
    with pytest.raises(FileNotFoundError, match=r"no rows .*in \.\./results/smoke.*: xai-repro run ") as told:
        run_all(shutil.copy(path, notebooks), "smoke")
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_notebook_runs_from_its_folder(notebooks):
    path = shutil.copy(ROOT / "notebooks/22_collection_cam_layers.ipynb", notebooks)
    names = run_all(path, "smoke")
    assert names["settings"]["name"] == "smoke" and (notebooks.parent / "results/smoke/22_collection_cam_layers.parquet").exists()
    assert {one.name for one in (notebooks.parent / "results/smoke/22_collection_cam_layers").iterdir()} >= {"figure2.csv", "claims.csv"}
