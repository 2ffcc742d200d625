"""Files that are there whole or not at all, and stay what they were: a record beside a file holds its SHA-256."""

import hashlib
import os
import re
import tempfile
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole(path):
    """A temporary name beside path to write to; it takes path's place when the block ends well and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(frame, path):
    """Write a data frame as parquet, whole or not at all: who stops a notebook keeps the rows that were there."""
    with whole(path) as part:
        frame.to_parquet(part)


def writable(path):
    """The path, if a file can be written there: for asking before long work. Its folder is made if it is missing.

    Raises OSError, which says why not.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; the name of a file is needed")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        why = f"{path.parent} is a file" if isinstance(error, FileExistsError) else error.strerror
        raise OSError(f"cannot write to {path}: {why}") from error


def set_aside(path):
    """Rename a file to NAME.bad, or to NAME.bad.2 and so on where that is taken; returns its new path."""
    taken = (path.with_name(f"{path.name}.bad{number}") for number in chain([""], (f".{n}" for n in count(2))))
    bad = next(place for place in taken if not os.path.lexists(place))
    os.rename(path, bad)
    return bad


def sha256(path):
    """SHA-256 of a file, in hexadecimal; a file that has not changed is read only once in a process."""
    state = os.stat(path)
    return _sha256(os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=256)
def _sha256(path, *state):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded(path):
    """The SHA-256 kept beside a file, None if there is none. Raises ValueError for a record that holds something else."""
    beside = Path(f"{path}.sha256")
    if not beside.exists():
        return None
    found = re.match(r"[0-9a-f]{64}\b", beside.read_text(errors="replace"))
    if not found:
        raise ValueError(f"{beside} holds no SHA-256: remove it, or put back the one that belongs to {Path(path).name}")
    return found[0]


def record(path, digest):
    """Keep a file's SHA-256 beside it, in the format of sha256sum."""
    part = Path(f"{path}.sha256.part")  # always the same, so that the next writer takes what a killed one left
    part.write_text(f"{digest}  {Path(path).name}\n")
    os.replace(part, f"{path}.sha256")


def altered(path):
    """How a file differs from its record, to be said after its name; None if it does not, or has no record."""
    known = recorded(path)
    if known in (None, sha256(path)):
        return None
    return f"has SHA-256 {sha256(path)}, but the record beside it says {known}"
