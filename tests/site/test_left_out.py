"""A notebook that needs what a profile lacks is a page that says so."""

import nbformat
import pytest
from toy_notebooks import write

from xai_repro.errors import UnknownName
from xai_repro.site import driver
from xai_repro.site.page import page
from xai_repro.study import profiles


def needing(path, need):
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["xai_repro"] = {"needs": need}
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# A page\n\nOf boxes.", id="title"))
    nbformat.write(notebook, path)


def test_it_is_left_out_with_its_reason(here):
    path = write(here / "notebooks", "10_toy")
    needing(path, "boxes")
    left = here / "results/photos/10_toy"
    left.mkdir(parents=True)
    (left / "old.csv").write_text("of an earlier run")
    (here / "results/photos/10_toy.parquet").write_text("of an earlier run")
    assert driver.run(profile="photos")
    shown = page(nbformat.read(here / "results/photos/notebooks/10_toy.ipynb", as_version=4), "10_toy", here / "results/photos")
    reason = profiles.profile("photos")["lacks"]["boxes"]
    assert [cell.source for cell in shown.cells[:2]] == ["# A page", f"Not run with the profile `photos`: {reason}."]
    assert "Profile `photos`" in shown.cells[2].source and len(shown.cells) == 3
    assert not left.exists() and not (here / "results/photos/10_toy.parquet").exists()


def test_it_is_run_where_nothing_is_lacking(here, monkeypatch):
    path = write(here / "notebooks", "10_toy")
    needing(path, "boxes")
    assert driver.lacking(path, "mini") is None and "boxes" in driver.lacking(path, "photos")
    needing(write(here / "notebooks", "10_toy"), "boxs")
    with pytest.raises(UnknownName, match="unknown need of 10_toy 'boxs'; did you mean 'boxes'"):
        driver.run(profile="mini")


def test_every_need_of_ours_is_known():
    needs = {path.stem: nbformat.read(path, as_version=4).metadata.get("xai_repro", {}).get("needs") for path in driver.select(folder=profiles_root() / "notebooks")}
    assert set(needs.values()) == {None, *driver.NEEDS} and set(profiles.profile("photos")["lacks"]) == set(driver.NEEDS)


def profiles_root():
    from xai_repro.study.photographs import REFERENCE

    return REFERENCE.parent
