"""Assembles the website: prose, executed notebooks, their tables and figures, the papers' printed tables."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from xai_repro.published import papers, published
from xai_repro.site.driver import select
from xai_repro.site.pipeline import all_exist, lock, make, problem, settings_are
from xai_repro.study.profiles import profile as settings

_FILES = (".csv", ".svg", ".png")  # of what notebooks write, the part that pages show


def book(profile="mini", results="results", out="build", folder="notebooks", pages="book"):
    """Build the site from the executed notebooks of a profile and print where to open it; returns True if it was built.

    results: folder the notebooks were run into. out: folder to build in; the site is out/html. pages: the prose and the
    settings. A warning of the builder is an error. Nothing is built when nothing has changed. Raises FileNotFoundError,
    naming the command to run, for a notebook that has not been executed; UnknownName for a profile that does not exist.
    """
    settings(profile)
    place, out, pages = Path(results) / profile, Path(out), Path(pages)
    notebooks = [place / "notebooks" / path.name for path in select(None, folder)]
    missing = [path.stem for path in notebooks if not path.exists()]
    if missing:
        command = f"xai-repro run {' '.join(missing)} --profile {profile} --results {results}"
        raise FileNotFoundError(f"not executed with profile {profile}: {', '.join(missing)}; run: {command}")
    out.mkdir(parents=True, exist_ok=True)
    written = [p for p in sorted(place.glob("[0-9]*/**/*")) if p.suffix in _FILES]
    sources = [*(p for p in sorted(pages.rglob("*")) if p.is_file()), *notebooks, *written]
    index = out / "html" / "index.html"
    task = {
        "name": "book",
        "actions": [(_build, [pages, notebooks, place, out])],
        "file_dep": [str(p) for p in sources],
        "targets": [str(index)],
        "uptodate": [
            settings_are({"profile": profile, "printed": published().to_csv(), "builder": Path(__file__).read_text()}),
            all_exist,
        ],
    }
    with lock(out):
        failed, _ = make([task], out / ".doit.db")
    for why in failed.values():
        print(why, file=sys.stderr)
    if not failed:
        print(f"Open {index.resolve().as_uri()}")
    return not failed


def _build(pages, notebooks, place, out):
    """One fresh build (an incremental one would keep quiet about the warnings of unchanged pages)."""
    print(f"book: building from {place}", file=sys.stderr, flush=True)
    source, site, log = out / "book", out / "site", out / "book.log"
    for old in (source, site):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(pages, source)
    (source / "notebooks").mkdir(exist_ok=True)
    for path in notebooks:
        nbformat.write(page(nbformat.read(path, as_version=4)), source / "notebooks" / path.name)
    for path in place.glob("[0-9]*/**/*"):
        if path.suffix in _FILES:
            copy = source / "results" / path.relative_to(place)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    _printed_tables(source / "results" / "published")
    with open(log, "w") as text:
        code = subprocess.run(
            [Path(sys.executable).with_name("jupyter-book"), "build", source, "--path-output", site,
             "-W", "--keep-going", "-n", "-q"],
            stdout=text, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"},
        ).returncode  # fmt: skip
    if code:
        lines = log.read_text(errors="replace").splitlines()
        said = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-15:]
        return problem("\n".join([f"book: not built; the whole log is {log}", *said]))
    html = out / "html"
    shutil.rmtree(html, ignore_errors=True)
    os.replace(site / "_build" / "html", html)
    shutil.rmtree(site, ignore_errors=True)


def page(notebook):
    """An executed notebook as a page: without the injected cell, with a line that says which profile the numbers are from."""
    run = notebook.metadata.get("papermill", {})
    given = run.get("parameters", {})
    others = ", ".join(f"`{name}` = `{value}`" for name, value in given.items() if name not in ("profile", "results"))
    note = (
        f"Profile `{given.get('profile')}`, run on {(run.get('end_time') or '')[:10]}"
        + (f", with {others}" if others else "")
        + "."
    )
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        if "parameters" in tags:
            tags.append("hide-input")
        cell.metadata.pop("papermill", None)
    notebook.metadata.pop("papermill", None)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f"*{note}*", id="profile"))
    return notebook


def _printed_tables(folder):
    """The tables as the papers print them, one csv each."""
    folder.mkdir(parents=True)
    for paper in papers():
        for number, cells in published(paper).groupby("table", sort=False):
            wide = cells.pivot(index="row", columns="column", values="printed")
            wide = wide.reindex(index=cells["row"].unique(), columns=cells["column"].unique())
            wide.rename_axis("").to_csv(folder / f"{paper}_{number}.csv")
