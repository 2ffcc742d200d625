"""The book: built whole, in a folder of its own, from nothing but what is here."""

import re
import shutil
from pathlib import Path

import pytest
from toy_notebooks import write

from xai_repro.site import book, driver

BOOK = Path(__file__).parents[2] / "book"
FOREIGN = re.compile(r"<script[^>]*src=.?(https?:)?//|<link[^>]*stylesheet[^>]*href=.?(https?:)?//|unpkg|jsdelivr|cdnjs|googleapis")


def project(here, index="# Toy\n", config="title: toy\nexecute: {execute_notebooks: 'off'}\n"):
    """A project with one notebook, as if it had been run, and pages of its own."""
    source = write(here / "notebooks", "10_a", "print(1)")
    executed = here / "results/smoke/notebooks/10_a.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, executed)
    (here / "book").mkdir(exist_ok=True)
    (here / "book/_config.yml").write_text(config)
    (here / "book/_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: notebooks/10_a}]\n")
    (here / "book/index.md").write_text(index)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("out", [".", "book", "book/new", "notebooks", "results", "results/smoke/new", "notes", "linked"])
def test_the_book_is_not_built_where_something_else_is(out, here):
    project(here)
    for name in ("book/book", "notes/book", "notes/site", "notes/html"):  # names of folders that a build uses
        (here / name).mkdir(parents=True)
        (here / name / "thesis.txt").write_text("years")
    (here / "linked").symlink_to(here / "notes")
    before = files(here)
    with pytest.raises(ValueError, match="the site cannot be built in|holds something other than a site"):
        book.book("smoke", out=out)
    assert files(here) == before


def test_arguments_of_a_wrong_kind_are_told(here):
    project(here)
    (here / "file").touch()
    for name in ("profile", "out", "results", "folder", "pages"):
        with pytest.raises(ValueError, match=f"{name} is 3 "):
            book.book(**{"profile": "smoke"} | {name: 3})
    for out, why in [("file", "file is a file"), ("file/new", "Not a directory")]:
        with pytest.raises(OSError, match=why):
            book.book("smoke", out=out)


@pytest.mark.slow
def test_only_the_site_itself_is_replaced(here, monkeypatch):
    project(here)
    build = here / "build"
    assert book.book("smoke")
    for name in ("book", "site"):  # a reader's own, in the same folder
        (build / name).mkdir()
        (build / name / "notes.txt").write_text("mine")
    (build / ".building-killed").mkdir()
    (build / "html/index.html").write_text("altered by hand")
    assert book.book("smoke")
    assert "Toy" in (build / "html/index.html").read_text()
    assert sorted(p.name for p in build.iterdir() if p.is_dir()) == ["book", "html", "site"] and len(files(build / "book")) == 1


@pytest.mark.slow
def test_no_page_names_a_foreign_script(here):
    """The project's own settings, on pages with all that makes a builder ask for scripts: mathematics, tabs, a notebook."""
    tabs = "::::{tab-set}\n:::{tab-item} A\na\n:::\n::::\n\n```{dropdown} B\nb\n```\n"
    project(here, "# Toy\n\n$x^2$\n\n" + tabs, (BOOK / "_config.yml").read_text())
    for name in ("_static", "_vendor", "_own", "references.bib"):
        (shutil.copytree if (BOOK / name).is_dir() else shutil.copyfile)(BOOK / name, here / "book" / name)
    assert book.book("smoke")
    pages = sorted((here / "build/html").rglob("*.html"))
    assert any(path.name == "10_a.html" for path in pages)
    named = {f"{path.name}: {found[0]}" for path in pages if (found := FOREIGN.search(path.read_text()))}
    assert not named
    assert "mathjax/tex-svg.js" in (here / "build/html/index.html").read_text()
    assert not any(place in path.read_text() for path in pages for place in ("mybinder.org", "colab.research"))  # they would fetch what is published nowhere


def test_the_book_names_the_command_for_a_notebook_that_was_not_run(here):
    write(here / "notebooks", "10_a")
    with pytest.raises(FileNotFoundError, match="xai-repro run 10_a --profile smoke"):
        book.book("smoke")


@pytest.mark.slow
def test_the_book_is_built_once_and_its_warnings_are_errors(here, capfd):
    write(here / "notebooks", "10_a", "print(profile)")
    assert driver.run(profile="smoke")
    pages = here / "book"
    pages.mkdir()
    (pages / "_config.yml").write_text("title: toy\nexecute: {execute_notebooks: 'off'}\n")
    (pages / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: notebooks/10_a}]\n")
    table = "```{raw} html\n:file: results/published/clam_1.html\n```\n"
    (pages / "index.md").write_text(f"# Toy\n\n{{doc}}`nowhere`\n\n{table}")
    assert not book.book("smoke")
    said = capfd.readouterr().err
    assert "nowhere" in said and "WARNING" in said and "book.log" in said
    (pages / "index.md").write_text(f"# Toy\n\n{table}")
    assert book.book("smoke")
    said = capfd.readouterr()
    index = here / "build/html/index.html"
    assert f"Open {index.as_uri()}" in said.out and ".5550" in index.read_text()
    assert book.book("smoke") and capfd.readouterr().err == ""
