"""The page of one notebook, built alone."""

import pytest
from test_book import project
from toy_notebooks import write

from xai_repro.errors import UnknownName
from xai_repro.site import book


@pytest.mark.slow
def test_one_page_is_built_beside_the_site(here):
    project(here)
    write(here / "notebooks", "11_b")  # not run, and not asked for
    (here / "build/html").mkdir(parents=True)
    (here / "build" / book.MARK).touch()
    (here / "build/html/index.html").write_text("the site")
    (here / "book/other.md").write_text("# Another\n\n[](nowhere)\n")
    assert book.book("smoke", alone=["10"])
    assert "<h1>10_a" in (here / "build/alone/notebooks/10_a.html").read_text()
    assert (here / "build/html/index.html").read_text() == "the site" and not list((here / "build/alone").rglob("other.html"))


def test_what_cannot_be_built_alone_is_told(here):
    project(here)
    write(here / "notebooks", "11_b")
    with pytest.raises(UnknownName, match="did you mean '10_a'"):
        book.book("smoke", alone=["10_aa"])
    with pytest.raises(FileNotFoundError, match="not executed with profile smoke: 11_b; run: xai-repro run 11_b"):
        book.book("smoke", alone=["11"])
