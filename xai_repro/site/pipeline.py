"""Doing only what is not done yet: a thin layer over doit, for the notebooks and for the book."""

import hashlib
import json
import sqlite3
import sys
from contextlib import closing, contextmanager
from pathlib import Path

from doit.cmd_base import ModuleTaskLoader
from doit.dependency import SqliteDB
from doit.doit_cmd import DoitMain
from doit.exceptions import TaskFailed, UnmetDependency
from doit.reporter import ZeroReporter
from doit.tools import config_changed
from filelock import FileLock, Timeout

from xai_repro.store.files import set_aside

_GROUP = "all"  # doit has groups of tasks; here there is one


def make(tasks, record, jobs=1):
    """Bring tasks up to date, `jobs` at a time; returns what failed (name -> reason) and the names that were done.

    tasks: doit's dicts, with a "name"; an action's returned dict is kept as the task's values, a returned `problem(...)`
    makes it fail. record: the file that remembers what was done; a damaged one is set aside. A failing task stops only
    those that need its result.
    """
    if (record := Path(record)).exists() and not _readable(record):
        print(f"{record} is damaged: it is now {set_aside(record).name}, and what it remembered is done again", file=sys.stderr)
    failed, done = {}, []

    class Reporter(ZeroReporter):
        def add_failure(self, task, fail):
            if isinstance(fail, UnmetDependency):
                failed[_plain(task.name)] = f"not run, as it needs {', '.join(map(_plain, fail.message.split()))}"
            else:
                failed[_plain(task.name)] = fail.message if isinstance(fail, TaskFailed) else fail.get_msg().strip()

        def add_success(self, task):
            done.append(_plain(task.name))

    def tasks_of_doit():
        # capture would swap sys.stdout under the feet of the other threads
        yield from ({"io": {"capture": False}, "verbosity": 2} | task for task in tasks)

    config = {"dep_file": str(record), "backend": "journal", "reporter": Reporter, "continue": True,
              "num_process": jobs, "par_type": "thread"}  # fmt: skip
    main = DoitMain(ModuleTaskLoader({"DOIT_CONFIG": config, f"task_{_GROUP}": tasks_of_doit}), config_filenames=(),
                    extra_config={"BACKEND": {"journal": f"{__name__}:Journal"}})  # fmt: skip
    code = main.run(["run"])
    if code and not failed:
        raise RuntimeError(f"the task runner stopped with code {code}; its record is {record}")
    failed.pop(_GROUP, None)
    return failed, [name for name in done if name != _GROUP]


def _plain(name):
    return name.removeprefix(_GROUP + ":")


def _readable(record):
    try:
        with closing(sqlite3.connect(f"{record.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            sound = connection.execute("pragma integrity_check").fetchone() == ("ok",)
            rows = connection.execute("select task_data from doit").fetchall()
        return sound and all(isinstance(json.loads(data), dict) for (data,) in rows)
    except (sqlite3.Error, ValueError, TypeError):
        return False


class Journal(SqliteDB):
    """doit's record, written as soon as a task is done: a killed run forgets nothing that was finished."""

    def set(self, task_id, dependency, value):
        super().set(task_id, dependency, value)
        if dependency == "deps:":  # the last entry that doit makes for a task
            row = (task_id, self.codec.encode(self._cache[task_id]))
            self._conn.execute("insert or replace into doit values (?,?)", row)
            self._conn.commit()


def problem(message):
    """What an action returns to say that it failed, and why."""
    return TaskFailed(message, report=True)


def settings_are(settings):
    """A task is current only while these settings (JSON-able) are what they were."""
    return config_changed(settings)


def digest(path):
    """SHA-256 of a file. Always read anew: size and time of a file altered by hand may be what they were."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def written(paths):
    """What an action returns to say which files it wrote."""
    return {"files": {str(path): digest(path) for path in sorted(paths)}}


def unchanged(task, values):
    """A task is current only while the files it wrote last time are there and are what it wrote."""
    return all(Path(path).is_file() and digest(path) == known for path, known in values.get("files", {}).items())


@contextmanager
def lock(folder):
    """Hold a folder for one process; a second one says that it waits, then waits."""
    place = Path(folder) / ".lock"
    if place.is_dir():
        raise OSError(f"{place} is a folder, but the name is needed for a file: remove it")
    holder = FileLock(place)
    try:
        holder.acquire(timeout=0.1)
    except Timeout:
        print(f"waiting for another run in {folder} to finish", file=sys.stderr, flush=True)
        holder.acquire()
    try:
        yield
    finally:
        holder.release()
