"""Doing only what is not done yet: a thin layer over doit, for the notebooks and for the book."""

import sys
from contextlib import contextmanager
from pathlib import Path

from doit.cmd_base import ModuleTaskLoader
from doit.dependency import SqliteDB
from doit.doit_cmd import DoitMain
from doit.exceptions import TaskFailed, UnmetDependency
from doit.reporter import ZeroReporter
from doit.tools import config_changed
from filelock import FileLock, Timeout

_GROUP = "all"  # doit has groups of tasks; here there is one


def make(tasks, record, jobs=1):
    """Bring tasks up to date, `jobs` at a time; returns what failed (name -> reason) and the names that were done.

    tasks: doit's dicts, with a "name"; an action's returned dict is kept as the
    task's values, a returned `problem(...)` makes it fail. record: the file that
    remembers what was done. A failing task stops only those that need its result.
    """
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
        raise RuntimeError(f"the task runner stopped with code {code}; the record {record} may be damaged: remove it")
    failed.pop(_GROUP, None)
    return failed, [name for name in done if name != _GROUP]


def _plain(name):
    return name.removeprefix(_GROUP + ":")


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


def all_exist(task, values):
    """A task is current only while the files it wrote last time, kept as its value "files", are there."""
    return all(Path(path).exists() for path in values.get("files", []))


@contextmanager
def lock(folder):
    """Hold a folder for one process; a second one says that it waits, then waits."""
    holder = FileLock(Path(folder) / ".lock")
    try:
        holder.acquire(timeout=0.1)
    except Timeout:
        print(f"waiting for another run in {folder} to finish", file=sys.stderr, flush=True)
        holder.acquire()
    try:
        yield
    finally:
        holder.release()
