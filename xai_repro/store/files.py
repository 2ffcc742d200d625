"""Files that are there whole or not at all, and stay what they were: a record beside a file holds its SHA-256."""

import hashlib
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from uuid import uuid4

import pandas as pd
from filelock import FileLock

from xai_repro.errors import short

TEMPORARY = ".00000000.tmp"  # what is added to the name of a file while it is written; the digits differ from writer to writer


def path_of(name, value):
    """A value as a path; a ValueError for what cannot be one."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name} is {short(repr(value))} ({type(value).__name__}); a path is needed")
    return Path(value)


@contextmanager
def whole(path):
    """A temporary name beside path to write to; it takes path's place when the block ends well and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY.replace("0" * 8, uuid4().hex[:8]))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(frame, path):
    """Write a data frame as parquet, whole or not at all: who stops a notebook keeps the rows that were there.

    Raises ValueError for what is no data frame, a path that is none, or a column that parquet cannot hold; OSError where no file can be written.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"a DataFrame is needed to be written; given: {type(frame).__name__}")
    with whole(writable(path_of("path", path))) as part:
        try:
            frame.to_parquet(part)
        except ValueError as error:  # of pandas and of pyarrow
            raise ValueError(f"{path} cannot hold these rows: {short(str(error), 200)}") from error


def write_text(text, path):
    """Write a text, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def writable(path):
    """The path, if a file can be written there: for asking before long work. Its folder is made if it is missing.

    Raises OSError, which says why not.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; the name of a file is needed")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.lstat(path.with_name(path.name + TEMPORARY))  # fails for a name that is too long, and for letters that no name has
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except (OSError, ValueError) as error:
        why = f"{path.parent} is a file" if isinstance(error, FileExistsError) else getattr(error, "strerror", None) or error
        raise OSError(f"cannot write to {short(str(path))}: {why}") from error


def turn(path):
    """A lock on a name in the folder, which is made if it is missing: two processes that want one file take turns."""
    return FileLock(writable(path).with_name(f".{path.name}.lock"))


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
