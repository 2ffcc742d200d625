"""Fetching, against a server on this machine."""

import hashlib
import http.server
import threading

import pytest
import torch

from xai_repro.errors import UnknownName
from xai_repro.models.imagenet import imagenet_state_dict
from xai_repro.store import fetch

BODY = bytes(range(256)) * 20000  # 5 MB
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `body`, or its rest from the byte asked for; `cut` ends the transfer early, as a lost connection does."""

    body, cut, ranges, asked = BODY, None, True, []

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        type(self).asked.append(start)
        if start >= len(self.body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        self.wfile.write(self.body[start : self.cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Fresh", (Handler,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}/file-{DIGEST[:8]}.bin"
        yield handler
        running.shutdown()


def test_a_file_is_fetched_once_and_verified(server, tmp_path):
    path = fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
    assert path.read_bytes() == BODY and fetch.recorded(path) == DIGEST
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path) == path and server.asked == [0]
    assert not list(tmp_path.glob("*.part"))


def test_a_cut_off_transfer_goes_on_where_it_ended(server, tmp_path):
    server.cut = 3_000_000
    with pytest.raises(OSError, match="go on|goes on"):
        fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
    assert not (tmp_path / "file.bin").exists() and 0 < (arrived := (tmp_path / "file.bin.part").stat().st_size) <= 3_000_000
    server.cut = None
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY
    assert server.asked == [0, arrived]


def test_a_server_that_cannot_resume_starts_over(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    server.ranges = False
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY


def test_a_corrupted_file_is_an_error_and_removed(server, tmp_path):
    server.body = b"x" + BODY[1:]
    with pytest.raises(ValueError, match=f"expected {DIGEST[:8]}"):
        fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
    assert not (tmp_path / "file.bin").exists()
    server.body = BODY
    path = fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
    path.write_bytes(BODY[:-1] + b"x")  # damaged later: the record beside it tells
    with pytest.raises(ValueError, match="removed"):
        fetch.fetch(server.url, "file.bin", None, tmp_path)


def test_an_unreachable_server_is_a_clear_error(tmp_path):
    with pytest.raises(OSError, match="could not fetch"):
        fetch.fetch("http://127.0.0.1:9/file.bin", "file.bin", None, tmp_path)


def test_weights_are_converted_and_read_without_pickle(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    state = {"features.denselayer1.norm.1.weight": torch.randn(3), "fc.weight": torch.randn(2, 3).T, "n": torch.tensor(7)}
    torch.save(state, tmp_path / "w.pth")
    server.body = (tmp_path / "w.pth").read_bytes()
    prefix = hashlib.sha256(server.body).hexdigest()[:8]
    monkeypatch.setattr(fetch, "source", lambda name: (server.url, f"toy-{prefix}.pth", prefix))
    monkeypatch.setattr("xai_repro.models.imagenet.source", fetch.source)
    with pytest.raises(FileNotFoundError) as missing:
        imagenet_state_dict("toy")
    for part in (str(tmp_path / "cache"), server.url, f"toy-{prefix}.pth", "data_scripts/fetch_weights.py toy"):
        assert part in str(missing.value)

    path = fetch.fetch_weights("toy")
    assert [p.name for p in sorted(path.parent.glob("[a-z]*"))] == [f"toy-{prefix}.pth.sha256", path.name, f"{path.name}.sha256"]
    loaded = imagenet_state_dict("toy")
    assert set(loaded) == {"features.denselayer1.norm1.weight", "fc.weight", "n"}
    assert torch.equal(loaded["fc.weight"], state["fc.weight"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="removed"):
        fetch.fetch_weights("toy")


def test_code_in_a_weight_file_is_not_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(pickle.UnpicklingError):
        fetch.convert(tmp_path / "evil.pth", tmp_path / "evil.safetensors")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "evil.safetensors").exists()


def test_the_papers_networks_have_a_source():
    for name in fetch.NETWORKS:
        url, file, prefix = fetch.source(name)
        assert url.startswith("https://") and url.endswith(file) and prefix in file
    with pytest.raises(UnknownName, match="did you mean 'vgg16'"):
        fetch.source("vgg-16")
