"""Runs the notebooks: only those that are not current, side by side, each in its own process."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

import nbformat
from tqdm import tqdm

from xai_repro.errors import like, unknown, whole_number
from xai_repro.site import places
from xai_repro.site.execute import check, inspect
from xai_repro.site.pipeline import digest, lock, make, problem, settings_are, unchanged, written
from xai_repro.site.preload import preloaded
from xai_repro.store import progress
from xai_repro.store.files import path_of, whole, writable
from xai_repro.study import cluster
from xai_repro.study.profiles import profile as settings

# Large tensors come and go by the thousand. glibc would give the memory of each back to the system and ask for it again, page by page,
# which took half of the time of some notebooks; so it keeps what it has.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
SUMMARIES = "9"  # notebooks whose number begins so read what the others left, and run after them
NEEDS = ("boxes", "attributes", "drawn", "nonlinear")  # what a notebook may need that not every profile has
_SOURCES = ("*.py", "*.toml", "published/*.csv", "models/weights/*")
_NOT_COMPUTING = ("site/*", "cli.py", "doctor.py", "store/fetch.py", "store/unpack.py", "store/progress.py", "store/waiting.py", "data/fetching.py", "data/sources.toml")


def run(notebooks=None, profile="mini", parameters=None, results="results", jobs=None, folder="notebooks", scheduler=None):
    """Execute the notebooks that are not current; returns True if none failed.

    notebooks: names, numbers or patterns ("10_lift_cam_faithfulness", "10", "1*"); None: all. profile: smoke, mini or
    paper. parameters: name -> value, injected into each of the notebooks. results: the folder to write to. jobs: how
    many run at a time (as many as there are cores). folder: where the notebooks are. scheduler: address of a Dask cluster, to which
    every `evaluate` of a notebook that gives models and data sets by name hands its jobs; None: what the environment variable
    XAI_REPRO_SCHEDULER says, or no cluster. A notebook is current or not, whoever computed it.

    Written under results/<profile>/: `notebooks/` the executed copies, `logs/` one log per notebook and the partly
    executed copy of one that failed, and whatever the notebooks write themselves. A notebook is current when its
    source, its parameters, the library and every file it wrote are as they were. A killed run is simply started again.

    Raises UnknownName for a notebook, profile or parameter that does not exist, TypeError for a parameter of another
    type than annotated, ValueError for any other argument of a wrong kind, OSError where results cannot be written, ConnectionError where
    no cluster answers, ModuleNotFoundError where a cluster is named and Dask is not installed, all
    of it before anything runs.
    """
    settings(like("profile", profile, "mini"))
    parameters = dict(like("parameters", parameters or {}, {}))
    place = path_of("results", results) / profile
    chosen = select(notebooks, folder)
    for path in chosen:
        check(path, inspect(path), parameters)
    jobs = min(_cores(), len(chosen)) if jobs is None else whole_number("jobs", jobs)
    scheduler = like("scheduler", scheduler or os.environ.get(cluster.ADDRESS, ""), "")
    for path in chosen:  # makes the folders, too
        writable(place / "notebooks" / path.name)
        writable(place / "logs" / f"{path.stem}.log")
    if scheduler:
        cluster.check(scheduler)
    with lock(place), places.private() as sockets, preloaded(sockets, _environment(jobs, sockets, scheduler), len(chosen)) as environment:
        _sweep(place)
        library = library_hash()
        tasks = [_task(path, place, profile, parameters, chosen, folder, library, environment) for path in chosen]
        failed, _ = make(tasks, place / ".doit.db", jobs)
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    if not failed:
        print(f"{len(chosen)} notebooks are current in {place / 'notebooks'}; the site is built by: xai-repro book --profile {profile} --results {results}")
    return not failed


def select(names=None, folder="notebooks"):
    """Paths of the notebooks that names, numbers or patterns stand for; all of them for None.

    Raises UnknownName with the nearest match, ValueError for no name, FileNotFoundError when the folder holds no notebook.
    """
    found = sorted(path for path in path_of("folder", folder).glob("[0-9]*_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks in {folder}/: run this in the folder that holds the project")
    if names is None:
        return found
    chosen = set()
    for name in names if isinstance(names, (list, tuple, set)) else [names]:
        stem = Path(str(name)).name.removesuffix(".ipynb")
        matching = {p for p in found if fnmatchcase(p.stem, stem) or p.stem.split("_")[0] == stem}
        if not matching:
            raise unknown("notebook", stem, [p.stem for p in found])
        chosen |= matching
    if not chosen:
        raise ValueError("no notebook is named")
    return sorted(chosen)


def _environment(jobs, sockets, scheduler):
    """What the processes of the notebooks find in their environment: their share of the cores, a place for sockets, a cluster."""
    threads = str(max(1, _cores() // jobs))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | KEEP_MEMORY
    return shared | os.environ | {"JUPYTER_RUNTIME_DIR": str(sockets), "JUPYTER_PLATFORM_DIRS": "1", cluster.ADDRESS: scheduler}


def _task(path, place, profile, parameters, chosen, folder, library, environment):
    """What doit needs to know of one notebook."""
    name, copies = path.stem, place / "notebooks"
    depends = [path]
    if name.startswith(SUMMARIES):
        others = [p for p in select(None, folder) if not p.stem.startswith(SUMMARIES)]
        depends += [copies / p.name for p in others if p in chosen or (copies / p.name).exists()]
    reason = lacking(path, profile)
    # doit looks at the source when the notebook is done; who edits it meanwhile has to have it run again
    same = settings_are({"parameters": parameters, "library": library, "source": digest(path)})
    return {
        "name": name,
        "actions": [(_leave_out, [path, place, profile, reason]) if reason else (_execute, [path, place, {"profile": profile, "results": ".."} | parameters, environment])],
        "file_dep": [str(p) for p in depends],
        "targets": [str(copies / path.name)],
        "uptodate": [same, unchanged],
    }


def about(path):
    """What a notebook's metadata say of it: `needs`, what it cannot run without, and `makes`, the papers' tables on its page ("lift_cam 4")."""
    return nbformat.read(path, as_version=4).metadata.get("xai_repro", {})


def lacking(path, profile):
    """Why a notebook is not run with a profile: what it needs, as its metadata say, and the profile lacks; None where it is run.

    Raises UnknownName for a need that no profile knows.
    """
    need = about(path).get("needs")
    lacks = settings(profile)["lacks"]
    if need not in (None, *lacks, *NEEDS):
        raise unknown(f"need of {path.stem}", need, NEEDS)
    return lacks.get(need)


def _leave_out(path, place, profile, reason):
    """The page of a notebook that is not run: its title, and why not. What an earlier run of it left goes."""
    title = next(cell.source.splitlines()[0] for cell in nbformat.read(path, as_version=4).cells if cell.source.startswith("# "))
    said = f"{title}\n\nNot run with the profile `{profile}`: {reason}."
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(said, id="left-out")])
    page.metadata["papermill"] = {"parameters": {"profile": profile}, "end_time": time.strftime("%Y-%m-%d")}
    for top in place.iterdir():
        if top.name in (path.stem, f"{path.stem}.parquet"):
            shutil.rmtree(top) if top.is_dir() else top.unlink()
    copy = place / "notebooks" / path.name
    with whole(copy) as part:
        nbformat.write(page, part)
    return written([copy])


def _execute(path, place, parameters, environment):
    """Run one notebook and show how far it is; returns the files it wrote, or what went wrong."""
    name, copy = path.stem, place / "notebooks" / path.name
    log, failed, part = place / "logs" / f"{name}.log", place / "logs" / f"{name}.failed.ipynb", Path(f"{copy}.part")
    start = time.monotonic()
    try:
        failed.unlink(missing_ok=True)
        code = _work(path, place.resolve(), parameters, environment)
        if code:
            copy.unlink(missing_ok=True)  # results of an older source must not pass for this one
            if part.exists():
                os.replace(part, failed)
    except OSError as error:
        return problem(f"failed: {error}")
    seconds = time.monotonic() - start
    if code:
        tail = "\n".join("    " + line for line in log.read_text(errors="replace").rstrip().splitlines()[-12:])
        tqdm.write(f"{name}: failed after {seconds:.0f} s; the end of {log}:\n{tail}", file=sys.stderr)
        return problem(f"failed, see {log}")
    tqdm.write(f"{name}: done in {seconds:.0f} s", file=sys.stderr)
    tops = [top for top in place.iterdir() if top.name == name or top.name.startswith(f"{name}.")]
    found = [p for top in tops for p in (top.rglob("*") if top.is_dir() else [top])]
    return written([copy, *(p for p in found if p.is_file() and p.suffix != ".tmp")])


def _work(path, place, parameters, environment):
    """One notebook in a process of its own; returns the process's exit code."""
    copies, log, now = place / "notebooks", place / "logs" / f"{path.stem}.log", place / "logs" / f"{path.stem}.progress"
    job = {"notebook": os.path.relpath(path.resolve(), copies), "output": path.name, "parameters": parameters}
    runtime = tempfile.TemporaryDirectory(prefix="", dir=environment["JUPYTER_RUNTIME_DIR"], ignore_cleanup_errors=True)
    try:
        with runtime as sockets, open(log, "w") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "xai_repro.site.execute", json.dumps(job)], cwd=copies,
                stdin=subprocess.PIPE, stdout=out, stderr=out,
                env=environment | {progress.FILE: str(now), "JUPYTER_RUNTIME_DIR": sockets},
            )  # fmt: skip
            return _watch(worker, path.stem, now)
    finally:
        if now.is_file():
            now.unlink()


def _watch(worker, name, file):
    """Wait for the process; meanwhile one line says what it is at: a live one on a terminal, now and then elsewhere."""
    live = sys.stderr.isatty()
    if not live:
        print(f"{name}: running", file=sys.stderr, flush=True)
    said, told = "", time.monotonic()
    with tqdm(bar_format="{desc} ({elapsed})", desc=name, disable=not live, leave=False) as line:
        while True:
            try:
                return worker.wait(timeout=0.3)
            except subprocess.TimeoutExpired:
                now = progress.said(file)
            line.set_description_str(f"{name}: {now or 'running'}")
            if not live and now != said and time.monotonic() - told > 30:
                said, told = now, time.monotonic()
                print(f"{name}: {now}", file=sys.stderr, flush=True)


def library_hash():
    """SHA-256 over what the notebooks compute with: the library's code, settings, printed tables and weights."""
    root, whole = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(p for pattern in _SOURCES for p in root.rglob(pattern)):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not any(fnmatchcase(name, one) for one in _NOT_COMPUTING):
            whole.update(f"{name}\0{digest(path)}".encode())
    return whole.hexdigest()


def _sweep(place):
    """Remove what a killed run left half-written."""
    for part in [*place.glob("notebooks/*.part"), *place.glob("logs/*.progress"), *place.glob("logs/*.part")]:
        if part.is_file():
            part.unlink()
    places.sweep(place)


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
