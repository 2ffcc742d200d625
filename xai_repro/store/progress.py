"""How far a long loop is: a bar on a terminal, one line in a file when a notebook runs under the driver.

Nothing is written to stderr inside a notebook: the page would show it and the comparison of outputs would fail.
"""

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from xai_repro.errors import short

FILE = "XAI_REPRO_PROGRESS"  # environment variable that names the file


@contextmanager
def track(total, label):
    """Yield `step(n=1)`, to be called when n more of `total` are done.

    total: how many there are to do. label: what they are ("mini-birds lift-cam").
    With the environment variable XAI_REPRO_PROGRESS set, the file it names holds `label done/total`; otherwise a
    bar is shown on stderr if that is a terminal, and nothing if it is not.
    """
    path = os.environ.get(FILE)
    if not path:
        with tqdm(total=total, desc=label, disable=not sys.stderr.isatty(), leave=False) as bar:
            yield lambda n=1: bar.update(n)
        return
    done, shown = 0, 0.0

    def step(n=1):
        nonlocal done, shown
        done += n
        if done >= total or time.monotonic() - shown > 0.2:
            shown = time.monotonic()
            _write(Path(path), f"{label} {done}/{total}")

    step(0)
    yield step


def said(path):
    """The line that the file of progress holds; "" where there is none, or it cannot be read."""
    try:
        return short(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def _write(path, text):
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError:
        pass  # progress is a courtesy: a folder that has gone must not stop the work
