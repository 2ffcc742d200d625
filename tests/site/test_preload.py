"""Kernels that are forks of one process: the same as any other kernel, and gone when nobody needs them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from toy_notebooks import write

from xai_repro.site import driver, preload

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")]


def outputs(here, name):
    cells = nbformat.read(here / f"results/smoke/notebooks/{name}.ipynb", as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.get("outputs", [])).split()


def test_notebooks_are_forks_that_know_nothing_of_each_other(here, monkeypatch):
    monkeypatch.setenv("XAI_REPRO_TOY", "given")
    asked = "import os, sys; print(os.environ['XAI_REPRO_TOY'], 'torchvision' in sys.modules, 'toy_mark' in sys.modules, os.path.basename(os.getcwd()), os.getpid())"
    for number in range(10, 10 + preload.ENOUGH):
        write(here / "notebooks", f"{number}_toy", asked, "sys.modules['toy_mark'] = sys; os.environ['XAI_REPRO_TOY'] = 'changed'")
    assert driver.run(profile="smoke")
    said = [outputs(here, f"{number}_toy") for number in range(10, 10 + preload.ENOUGH)]
    assert {tuple(one[:4]) for one in said} == {("given", "True", "False", "notebooks")} and len({one[4] for one in said}) == preload.ENOUGH


def test_few_notebooks_are_kernels_of_their_own(here):
    write(here / "notebooks", "10_toy", "import sys; print('torchvision' in sys.modules)")
    assert driver.run(profile="smoke") and outputs(here, "10_toy") == ["False"]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of a process that imports nothing, and so is there at once."""
    address = str(tmp_path / "preloaded")
    quick = f"from xai_repro.site import preload; preload._import = lambda: None; preload.serve({address!r})"
    server = subprocess.Popen([sys.executable, "-c", quick], stdin=subprocess.PIPE)
    yield address, server
    server.kill()
    server.communicate()


def asked(address, tmp_path, **options):
    return subprocess.Popen(preload.command(address, str(tmp_path / "kernel.json")), cwd=tmp_path, **options)


def ended(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def kernels(tmp_path):
    """The processes that work in this folder."""
    found = [path.parent.name for path in Path("/proc").glob("[0-9]*/cwd") if _target(path) == str(tmp_path)]
    return {int(pid) for pid in found}


def _target(path):
    try:
        return os.readlink(path)
    except OSError:  # another user's, or gone
        return ""


def test_a_kernel_ends_with_the_one_who_asked(served, tmp_path):
    address, _ = served
    asking = asked(address, tmp_path)
    assert ended((tmp_path / "kernel.json").exists)
    before = kernels(tmp_path) - {asking.pid}
    assert before
    asking.kill()
    asking.wait()
    assert ended(lambda: not kernels(tmp_path))


def test_a_killed_kernel_is_told_as_it_ended(served, tmp_path):
    address, _ = served
    asking = asked(address, tmp_path)
    assert ended((tmp_path / "kernel.json").exists)
    (kernel,) = kernels(tmp_path) - {asking.pid}
    os.kill(kernel, signal.SIGKILL)
    assert asking.wait(timeout=20) == -signal.SIGKILL


def test_kernels_and_their_server_end_with_its_standard_input(served, tmp_path):
    address, server = served
    asking = asked(address, tmp_path)
    assert ended((tmp_path / "kernel.json").exists)
    server.stdin.close()
    assert server.wait(timeout=20) == 0
    asking.terminate()
    asking.wait()
    assert ended(lambda: not kernels(tmp_path))


@pytest.mark.parametrize("left", ["a file", "a socket of a process that is gone"])
def test_where_nobody_answers_it_is_an_ordinary_kernel(left, tmp_path):
    address = tmp_path / "preloaded"
    if left == "a file":
        address.touch()
    else:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(address))
    asking = asked(str(address), tmp_path)
    try:
        assert ended((tmp_path / "kernel.json").exists)
        assert b"ipykernel_launcher" in Path(f"/proc/{asking.pid}/cmdline").read_bytes()
    finally:
        asking.kill()
        asking.wait()


def test_what_cannot_be_imported_keeps_nobody_waiting(tmp_path):
    address = tmp_path / "preloaded"
    broken = f"from xai_repro.site import preload\ndef fail(): raise ImportError('broken')\npreload._import = fail; preload.serve({str(address)!r})"
    assert subprocess.run([sys.executable, "-c", broken], stdin=subprocess.DEVNULL, capture_output=True).returncode == 1
    assert address.is_file() and preload._reached(str(address)) is None
