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

from tqdm import tqdm

from xai_repro.errors import unknown
from xai_repro.site.execute import check, inspect
from xai_repro.site.pipeline import all_exist, lock, make, problem, settings_are
from xai_repro.store.progress import FILE
from xai_repro.study.profiles import profile as settings

SUMMARIES = "9"  # notebooks whose number begins so read what the others left, and run after them
_SOURCES = ("*.py", "*.toml", "published/*.csv", "models/weights/*")
_NOT_COMPUTING = ("site/*", "cli.py", "doctor.py", "store/fetch.py", "store/progress.py")


def run(notebooks=None, profile="mini", parameters=None, results="results", jobs=None, folder="notebooks"):
    """Execute the notebooks that are not current; returns True if none failed.

    notebooks: names, numbers or patterns ("10_lift_cam_faithfulness", "10", "1*"); None: all. profile: smoke, mini or
    paper. parameters: name -> value, injected into each of the notebooks. results: the folder to write to. jobs: how
    many run at a time (as many as there are cores). folder: where the notebooks are.

    Written under results/<profile>/: `notebooks/` the executed copies, `logs/` one log per notebook and the partly
    executed copy of one that failed, and whatever the notebooks write themselves. A notebook is current when its
    source, its parameters and the library are as they were and what it wrote is still there. A killed run is simply
    started again.

    Raises UnknownName for a notebook, profile or parameter that does not exist, TypeError for a parameter of another
    type than annotated, and does so before anything runs.
    """
    settings(profile)
    parameters = dict(parameters or {})
    chosen = select(notebooks, folder)
    for path in chosen:
        check(path, inspect(path), parameters)
    jobs = _positive(jobs, "jobs") or min(_cores(), len(chosen))
    place = Path(results) / profile
    for name in ("notebooks", "logs"):
        (place / name).mkdir(parents=True, exist_ok=True)
    with lock(place):
        _sweep(place)
        library = library_hash()
        tasks = [_task(path, place, profile, parameters, jobs, chosen, folder, library) for path in chosen]
        failed, done = make(tasks, place / ".doit.db", jobs)
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    if not failed and not done:
        print(f"{len(chosen)} notebooks are current in {place}")
    return not failed


def select(names=None, folder="notebooks"):
    """Paths of the notebooks that names, numbers or patterns stand for; all of them for None.

    Raises UnknownName with the nearest match, FileNotFoundError when the folder holds no notebook.
    """
    found = sorted(path for path in Path(folder).glob("[0-9]*_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebooks in {folder}/: run this in the folder that holds the project")
    if names is None:
        return found
    chosen = set()
    for name in [names] if isinstance(names, str) else names:
        stem = Path(str(name)).name.removesuffix(".ipynb")
        matching = {p for p in found if fnmatchcase(p.stem, stem) or p.stem.split("_")[0] == stem}
        if not matching:
            raise unknown("notebook", stem, [p.stem for p in found])
        chosen |= matching
    return sorted(chosen)


def _task(path, place, profile, parameters, jobs, chosen, folder, library):
    """What doit needs to know of one notebook."""
    name, copies = path.stem, place / "notebooks"
    depends = [path]
    if name.startswith(SUMMARIES):
        others = [p for p in select(None, folder) if not p.stem.startswith(SUMMARIES)]
        depends += [copies / p.name for p in others if p in chosen or (copies / p.name).exists()]
    return {
        "name": name,
        "actions": [(_execute, [path, place, {"profile": profile, "results": ".."} | parameters, jobs])],
        "file_dep": [str(p) for p in depends],
        "targets": [str(copies / path.name)],
        "uptodate": [settings_are({"parameters": parameters, "library": library}), all_exist],
    }


def _execute(path, place, parameters, jobs):
    """Run one notebook in a process of its own and show how far it is; returns the files it wrote."""
    name, copies, logs = path.stem, (place / "notebooks").resolve(), (place / "logs").resolve()
    log, progress = logs / f"{name}.log", logs / f"{name}.progress"
    sockets = Path(tempfile.mkdtemp(prefix=f"xai-repro-{os.getpid()}-"))
    threads = str(max(1, _cores() // jobs))
    environment = {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
        **os.environ,
        FILE: str(progress), "JUPYTER_RUNTIME_DIR": str(sockets), "JUPYTER_PLATFORM_DIRS": "1",
    }  # fmt: skip
    job = {
        "notebook": os.path.relpath(path.resolve(), copies),
        "output": path.name,
        "failed": os.path.relpath(logs / f"{name}.failed.ipynb", copies),
        "parameters": parameters,
    }
    start = time.monotonic()
    try:
        with open(log, "w") as out:
            worker = subprocess.Popen([sys.executable, "-m", "xai_repro.site.execute", json.dumps(job)], cwd=copies,
                                      stdin=subprocess.PIPE, stdout=out, stderr=out, env=environment)  # fmt: skip
            _watch(worker, name, progress)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        progress.unlink(missing_ok=True)
    seconds = time.monotonic() - start
    if worker.returncode:
        tail = "\n".join("    " + line for line in log.read_text(errors="replace").rstrip().splitlines()[-12:])
        tqdm.write(f"{name}: failed after {seconds:.0f} s; the end of {place / 'logs' / log.name}:\n{tail}", file=sys.stderr)
        return problem(f"failed, see {place / 'logs' / log.name}")
    tqdm.write(f"{name}: done in {seconds:.0f} s", file=sys.stderr)
    written = [place / name, *place.glob(f"{name}*")]  # its folder, and files named after it
    return {"files": sorted({str(p) for top in written for p in (top.rglob("*") if top.is_dir() else [top]) if p.is_file()})}


def _watch(worker, name, progress):
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
                now = progress.read_text() if progress.exists() else ""
            line.set_description_str(f"{name}: {now or 'running'}")
            if not live and now != said and time.monotonic() - told > 30:
                said, told = now, time.monotonic()
                print(f"{name}: {now}", file=sys.stderr, flush=True)


def library_hash():
    """SHA-256 over what the notebooks compute with: the library's code, settings, printed tables and weights."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(p for pattern in _SOURCES for p in root.rglob(pattern)):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not any(fnmatchcase(name, one) for one in _NOT_COMPUTING):
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _sweep(place):
    """Remove what a killed run left: half-written copies, and sockets whose driver is gone."""
    for part in [*place.glob("notebooks/*.part"), *place.glob("logs/*.progress"), *place.glob("logs/*.part")]:
        part.unlink(missing_ok=True)
    for sockets in Path(tempfile.gettempdir()).glob("xai-repro-*-*"):
        pid = sockets.name.split("-")[2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(sockets, ignore_errors=True)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _positive(value, name):
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
