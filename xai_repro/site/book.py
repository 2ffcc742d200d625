"""Assembles the website: prose, executed notebooks, their tables and figures, the papers' printed tables."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from xai_repro.errors import like
from xai_repro.published import papers, published
from xai_repro.site import places
from xai_repro.site.driver import select
from xai_repro.site.page import __file__ as of_page, page, SERVED
from xai_repro.site.picker import __file__ as of_picker
from xai_repro.site.pipeline import lock, make, problem, settings_are, unchanged, written
from xai_repro.store.files import path_of, writable
from xai_repro.study import layout, markup
from xai_repro.study.profiles import profile as settings

MARK = ".xai-repro-book"  # stands in a folder that sites are built in: nothing is replaced where it does not
_FILES = (".csv", ".svg", ".png", ".webp", ".html", ".js", ".parquet")  # of what notebooks write, the part that pages show or offer
_READ = (".csv", ".html")  # and of this the part that the builder itself reads
_OFFERED = "_offered"  # folder that the builder copies into the site as it is
_UNFINISHED = ".building-"


def book(profile="mini", results="results", out="build", folder="notebooks", pages="book", alone=None):
    """Build the site from the executed notebooks of a profile and print where to open it; returns True if it was built.

    results: folder the notebooks were run into. out: folder to build in, a new or an empty one or that of an earlier site;
    the site is out/html. pages: the prose and the settings. A warning of the builder is an error. Nothing is built when
    nothing has changed. alone: names, numbers or patterns of notebooks: only their pages are built, into out/alone, in seconds; links from there to other pages lead
    nowhere, which is no error then. Raises FileNotFoundError, naming the command to run, for a notebook that has not been executed;
    UnknownName for a profile that does not exist; ValueError for an argument of a wrong kind and for an `out` that holds
    something else; OSError where nothing can be written.
    """
    settings(like("profile", profile, "mini"))
    results, out, pages = path_of("results", results), path_of("out", out), path_of("pages", pages)
    place = results / profile
    notebooks = [place / "notebooks" / path.name for path in select(alone, folder)]
    missing = [path.stem for path in notebooks if not path.exists()]
    if missing:
        command = f"xai-repro run {' '.join(missing)} --profile {profile} --results {results}"
        raise FileNotFoundError(f"not executed with profile {profile}: {', '.join(missing)}; run: {command}")
    _claim(out, [pages, Path(folder), place])
    wanted = _wanted(place)
    sources = [*(p for p in sorted(pages.rglob("*")) if p.is_file()), *notebooks, *wanted]
    index = out / "html" / "index.html" if alone is None else out / "alone" / "notebooks" / f"{notebooks[0].stem}.html"
    same = {"profile": profile, "printed": published().to_csv(), "builder": [Path(file).read_text(encoding="utf-8") for file in (__file__, of_page, of_picker, layout.__file__, markup.__file__)]}
    task = {
        "name": "book" if alone is None else "alone",
        "actions": [(_build, [pages, notebooks, place, out, alone is not None])],
        "file_dep": [str(p) for p in sources],
        "targets": [str(index)],
        "uptodate": [settings_are(same), unchanged],
    }
    with lock(out):
        for left in out.glob(f"{_UNFINISHED}*"):  # of a killed build: there is no other while the folder is locked
            shutil.rmtree(left)
        failed, _ = make([task], out / ".doit.db")
    for why in failed.values():
        print(why, file=sys.stderr)
    if not failed:
        print(f"Open {index.resolve().as_uri()}")
    return not failed


def _claim(out, sources):
    """Make the folder and mark it as one for sites, unless it holds something else or what the site is made from."""
    for source in sources:
        ours, theirs = out.resolve(), source.resolve()
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            raise ValueError(f"the site cannot be built in {out}: it is made from what is in {source}")
    mark = out / MARK
    if out.is_dir() and any(out.iterdir()) and not mark.exists():
        raise ValueError(f"{out} holds something other than a site of xai-repro: name a new folder, or remove this one")
    writable(mark).touch()


def _build(pages, notebooks, place, out, alone):
    """One fresh build (an incremental one would keep quiet about the warnings of unchanged pages); the old site goes last."""
    print(f"book: building from {place}", file=sys.stderr, flush=True)
    html, log = out / ("alone" if alone else "html"), out / "book.log"
    with TemporaryDirectory(prefix=_UNFINISHED, dir=out.resolve()) as new:
        source, site = Path(new, "book"), Path(new, "site")
        _gather(source, pages, notebooks, place)
        if alone:
            _only(source, notebooks)
        if _sphinx(source, site, log, strict=not alone):
            lines = log.read_text(errors="replace").replace(f"{source}/", "").splitlines()
            said = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-15:]
            return problem("\n".join([f"book: not built; the whole log is {log}", *said]))
        if os.path.lexists(html):
            os.replace(html, Path(new, "old"))
        os.replace(site / "_build" / "html", html)
    return written(p for p in html.rglob("*") if p.is_file())


def _gather(source, pages, notebooks, place):
    """All that the builder reads, in one folder."""
    shutil.copytree(pages, source)
    (source / "notebooks").mkdir(exist_ok=True)
    for path in notebooks:
        nbformat.write(page(nbformat.read(path, as_version=4), path.stem, place), source / "notebooks" / path.name)
    for path in _wanted(place):
        folders = [source / _OFFERED / SERVED] + [source / "results"] * (path.suffix in _READ)
        for copy in (folder / path.relative_to(place) for folder in folders):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    (source / _OFFERED).mkdir(exist_ok=True)
    _printed_tables(source / "results" / "published")


def _wanted(place):
    """The files of the notebooks that pages show or offer."""
    return [p for p in sorted(place.glob("[0-9]*/**/*")) if p.suffix in _FILES]


def _only(source, notebooks):
    """Leave the builder these pages alone."""
    first, *others = [f"notebooks/{path.stem}" for path in notebooks]
    chapters = "".join(f"\n  - file: {one}" for one in others)
    (source / "_toc.yml").write_text(f"format: jb-book\nroot: {first}\n" + (f"chapters:{chapters}\n" if others else ""))
    with open(source / "_config.yml", "a") as settings:
        settings.write("\nonly_build_toc_files: true\n")


def _sphinx(source, site, log, strict):
    """The builder's exit code; what it says is in the log. strict: warnings are errors."""
    with open(log, "w") as text:
        return subprocess.run(
            [Path(sys.executable).with_name("jupyter-book"), "build", source, "--path-output", site,
             *["-W"] * strict, "--keep-going", "-n", "-q"],
            stdout=text, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"},
        ).returncode  # fmt: skip


def _printed_tables(folder):
    """The tables as the papers print them, for the page of each paper."""
    folder.mkdir(parents=True)
    for paper in papers():
        for number, cells in published(paper).groupby("table", sort=False):
            (folder / f"{paper}_{number}.html").write_text(f"{markup.scrolling(markup.html(*layout.as_printed(cells)))}\n", encoding="utf-8")
