"""Bad inputs as a table: what is called, and the error of ours that it has to end with.

A case is (name, call, kind of the error, words that it says): what was given, and what is possible or how to mend it.
"""

import linecache
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import xai_repro

LIBRARY = Path(xai_repro.__file__).parent
SECONDS, LONGEST = 20, 700  # for one case; letters in an error


def cases(*tables):
    """Cases as parameters of a test, each under a name of its own."""
    whole = [(re.sub(r" at 0x\w+", "", name), *case) for table in tables for name, *case in table]  # the same names in every process
    names = [name for name, *_ in whole]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    return pytest.mark.parametrize(("call", "kind", "words"), [pytest.param(call, kind, words, id=name) for name, call, kind, *words in whole])


def refused(call, kind, words):
    """The call ends soon, with an error that the library itself raises, of one line with these words; torch's modes are as before."""
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    with limited(SECONDS), pytest.raises(Exception) as caught:  # noqa: PT011 - of which kind is looked at below
        call()
    said = str(caught.value)
    assert type(caught.value) is kind and ours(caught.value), f"{type(caught.value).__name__}: {said}"
    assert not [word for word in words if word not in said], f"{words} in: {said}"
    assert "\n" not in said and len(said) <= LONGEST, said
    assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())


def ours(error):
    """Whether an error comes from a `raise` of the library, and not from what a line of it has called."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    path = trace.tb_frame.f_code.co_filename
    return Path(path).is_relative_to(LIBRARY) and "raise" in linecache.getline(path, trace.tb_lineno).split()


@contextmanager
def limited(seconds):
    """A block that may take so long."""

    def late(*_):
        raise AssertionError(f"no end within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def contents(folder):
    """Everything below a folder: path -> bytes of a file, or where a link leads, or that it is a folder."""

    def of(path):
        return f"link to {path.readlink()}" if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"

    return {path.relative_to(folder).as_posix(): of(path) for path in sorted(folder.rglob("*"))}


@contextmanager
def untouched(folder, but=()):
    """A block after which a folder holds what it held; `but`: names of what may have come."""
    before = contents(folder)
    yield
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    assert {name for name in after if name not in before and Path(name).name not in but} == set()
