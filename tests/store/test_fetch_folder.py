"""The folder of fetched files: nothing is written outside it, nothing of the user's is lost, two processes do not meet."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest
import torch
from toy_server import BODY, DIGEST, serving

from xai_repro.store import fetch, files


@pytest.fixture
def server():
    with serving() as handler:
        yield handler


# -- Names --------------------------------------------------------------------------------------------------------------

NAMES = ["", ".", "..", "../x", "a/b", "a\\b", "/tmp/x", "C:x", "x\0", "x\n", ".hidden", "-x", "x.", "x ", "a" * 201]
OTHERS = ["ünï", 3, None, "nul", "Com1.txt", "x.part", "x.sha256", "x.SHA256", "x.bad", "x.bad.2"]


@pytest.mark.parametrize("name", NAMES + OTHERS, ids=lambda name: ascii(name)[:20])
def test_names_that_are_no_plain_file_names(server, tmp_path, name):
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match="cannot name a fetched file"):
        fetch.fetch(server.url, name, None, folder)
    assert not server.asked and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x", "vgg16-397923af.pth", "VOC_11-May-2012.tar", "a+b.tar.gz", "7", "x.badge", "console"])
def test_names_that_are(server, tmp_path, name):
    assert fetch.fetch(server.url, name, None, tmp_path) == tmp_path / name


# -- What was put there by hand -----------------------------------------------------------------------------------------


def test_a_file_that_fails_its_checksum_is_set_aside(server, tmp_path):
    path = tmp_path / "file.bin"
    for number, bad in enumerate(["file.bin.bad", "file.bin.bad.2", "file.bin.bad.3"]):
        path.write_bytes(b"mine %d" % number)
        with pytest.raises(ValueError, match=f"its publisher says {DIGEST[:8]}.*set aside as {tmp_path / bad}:"):
            fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
        assert not path.exists()
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.bad*")}
    assert kept == {"file.bin.bad": b"mine 0", "file.bin.bad.2": b"mine 1", "file.bin.bad.3": b"mine 2"}
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("held, size, why", [(b"", None, "is empty"), (b"<html>", None, "web page"), (BODY, 4000, "states 4000")])
def test_nor_does_anything_else_pass(server, tmp_path, held, size, why):
    (tmp_path / "file.bin").write_bytes(held)
    with pytest.raises(ValueError, match=f"{why}.*set aside"):
        fetch.fetch(server.url, "file.bin", None, tmp_path, size)
    assert (tmp_path / "file.bin.bad").read_bytes() == held and not server.asked


def test_a_file_that_changed_since_it_was_recorded_is_set_aside(server, tmp_path):
    path = fetch.fetch(server.url, "file.bin", None, tmp_path)
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(ValueError, match="set aside"):
        fetch.fetch(server.url, "file.bin", None, tmp_path)
    assert (tmp_path / "file.bin.bad").read_bytes() == BODY[:-1] + b"x"


def test_a_good_file_is_taken_and_what_a_killed_process_left_is_swept(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    for left in ("file.bin.part", "file.bin.sha256.part"):
        (tmp_path / left).write_bytes(BODY[:1000])
    path = fetch.fetch(server.url, "file.bin", DIGEST[:8].upper(), tmp_path)
    assert files.recorded(path) == DIGEST and not server.asked
    assert {left.name for left in tmp_path.iterdir()} == {"file.bin", "file.bin.sha256", ".file.bin.lock"}


def test_a_record_that_is_none(server, tmp_path):
    (tmp_path / "file.bin.sha256").write_text("")
    with pytest.raises(ValueError, match="file.bin.sha256 holds no SHA-256"):
        fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)


# -- Two processes, and one that is killed ------------------------------------------------------------------------------

SPAWN = multiprocessing.get_context("spawn")


def slowly(handler):
    """The file, in a second."""
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
    rest = BODY[start:]
    handler.reply(206 if start else 200, {"Content-Range": f"bytes {start}-"} if start else {}, len(rest))
    for i in range(0, len(rest), len(BODY) // 10):
        handler.wfile.write(rest[i : i + len(BODY) // 10])
        time.sleep(0.1)


def test_two_processes_take_turns(server, tmp_path):
    server.answer = slowly
    both = [SPAWN.Process(target=fetch.fetch, args=(server.url, "file.bin", DIGEST[:8], tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0] and server.asked == [0]
    assert (tmp_path / "file.bin").read_bytes() == BODY


def _weights(url, prefix, size):
    fetch.source = lambda name: (url, f"toy-{prefix}.pth", prefix, size)
    fetch.fetch_weights("toy")


def test_two_processes_that_convert_take_turns(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    torch.save({"w": torch.randn(300_000)}, tmp_path / "w.pth")
    server.body = (tmp_path / "w.pth").read_bytes()
    prefix = hashlib.sha256(server.body).hexdigest()[:8]
    both = [SPAWN.Process(target=_weights, args=(server.url, prefix, len(server.body))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0] and server.asked == [0]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_what_a_killed_process_left_is_used(server, tmp_path):
    server.answer = slowly
    process = SPAWN.Process(target=fetch.fetch, args=(server.url, "file.bin", DIGEST[:8], tmp_path))
    process.start()
    part = tmp_path / "file.bin.part"
    while process.is_alive() and not (part.exists() and part.stat().st_size > 1_000_000):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    arrived = part.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {part.name, ".file.bin.lock"} and arrived < len(BODY)
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY
    assert server.asked == [0, arrived] and not part.exists()


def test_a_file_has_its_name_only_when_it_is_on_record(server, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
    assert not (tmp_path / "file.bin").exists()
