"""Places on the disk: kept private while a run lasts, tidied after one that was killed."""

import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_HALF = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # how store.files names what is not whole yet
_OLD = 3600  # seconds that a half-written file was left alone; a younger one may be another process's work
_ROOM = 75  # characters: the name of a socket, which is 24 longer, has to stay below 100


@contextmanager
def private():
    """A new folder with a short name that only this user can open, for the sockets of kernels; removed at the end.

    What a killed process left is removed by the next one. The lock in each folder tells whether its process still lives:
    the system lets go of it when the process ends, and no other process with the same number can be taken for it.
    """
    parent = _parent()
    with FileLock(parent / "lock"):  # so that no folder is seen before it is locked
        for left in parent.iterdir():
            if left.is_dir():
                _remove_if_left(left)
        ours = Path(tempfile.mkdtemp(prefix="", dir=parent))
        owner = FileLock(ours / "owner")
        owner.acquire()
    try:
        yield ours
    finally:
        shutil.rmtree(ours, ignore_errors=True)
        owner.release()


def _parent():
    """This user's folder of temporary folders. Where the system's place has too long a name for sockets, it is in /tmp."""
    bases = [base for base in (tempfile.gettempdir(), "/tmp") if len(f"{base}/xai-repro-{os.getuid()}") <= _ROOM]
    parent = Path(bases[0]) / f"xai-repro-{os.getuid()}"
    with suppress(FileExistsError):
        parent.mkdir(mode=0o700)
    about = parent.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise OSError(f"{parent} is not a folder of yours that is closed to others: remove it, or set TMPDIR to another folder")
    return parent


def _remove_if_left(left):
    owner = FileLock(left / "owner")
    with suppress(Timeout, OSError):
        owner.acquire(timeout=0)
        shutil.rmtree(left, ignore_errors=True)
        owner.release()


def sweep(place):
    """Remove the half-written files that killed processes left under a folder: ours, and not touched for an hour."""
    for path in Path(place).rglob("*.tmp"):
        with suppress(FileNotFoundError):
            about = path.lstat()
            ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and _HALF.search(path.name)
            if ours and time.time() - about.st_mtime > _OLD:
                path.unlink()
