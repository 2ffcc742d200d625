"""Fetching, against a server on this machine."""

import hashlib

import pytest
import torch
from toy_server import BODY, DIGEST, serving

from xai_repro.errors import UnknownName
from xai_repro.models.imagenet import imagenet_file
from xai_repro.models.reading import read_weights
from xai_repro.store import fetch


@pytest.fixture
def server():
    with serving() as handler:
        yield handler


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


def test_a_corrupted_file_is_an_error_and_dropped(server, tmp_path):
    server.body = b"x" + BODY[1:]
    with pytest.raises(ValueError, match=f"its publisher says {DIGEST[:8]}.*dropped"):
        fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path)
    assert not list(tmp_path.glob("[a-z]*"))
    server.body = BODY
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY


def test_an_unreachable_server_is_a_clear_error(tmp_path):
    with pytest.raises(OSError, match="could not fetch"):
        fetch.fetch("http://127.0.0.1:9/file.bin", "file.bin", None, tmp_path)


@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """The tensors of a network "toy", which the server has; the cache is empty."""
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    state = {"features.denselayer1.norm.1.weight": torch.randn(3), "fc.weight": torch.randn(2, 3).T, "n": torch.tensor(7)}
    torch.save(state, tmp_path / "w.pth")
    server.body = (tmp_path / "w.pth").read_bytes()
    prefix = hashlib.sha256(server.body).hexdigest()[:8]
    monkeypatch.setattr(fetch, "source", lambda name: (server.url, f"toy-{prefix}.pth", prefix, len(server.body)))
    monkeypatch.setattr("xai_repro.models.imagenet.source", fetch.source)
    return state


def test_weights_are_converted_and_read_without_pickle(server, toy, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        imagenet_file("toy")
    _, file, *_ = fetch.source("toy")
    for part in (str(tmp_path / "cache"), server.url, file, "data_scripts/fetch_weights.py toy"):
        assert part in str(missing.value)

    path = fetch.fetch_weights("toy")
    assert [p.name for p in sorted(path.parent.glob("[a-z]*"))] == [f"{file}.sha256", path.name, f"{path.name}.sha256"]
    assert fetch.fetch_weights("toy") == path and server.asked == [0]
    loaded, _ = read_weights(imagenet_file("toy"))
    assert set(loaded) == {"features.denselayer1.norm1.weight", "fc.weight", "n"}
    assert torch.equal(loaded["fc.weight"], toy["fc.weight"])


def test_a_flipped_bit_is_noticed_when_weights_are_read(toy):
    path = fetch.fetch_weights("toy")
    damaged = bytearray(imagenet_file("toy").read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{path} has SHA-256 .*fetch_weights.py toy"):
        imagenet_file("toy")
    with pytest.raises(ValueError, match="record beside it"):
        read_weights(path)
    with pytest.raises(ValueError, match=f"set aside as {path}.bad"):
        fetch.fetch_weights("toy")
    assert not path.exists() and path.with_name(f"{path.name}.bad").read_bytes() == damaged
    assert read_weights(fetch.fetch_weights("toy"))


def test_a_file_is_hashed_once_until_it_changes(toy, monkeypatch):
    path = fetch.fetch_weights("toy")
    imagenet_file("toy")
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: hashed.append(file.name) or digest(file, kind))
    for _ in range(3):
        read_weights(imagenet_file("toy"))
    assert not hashed
    (again := path.with_name("again")).write_bytes(path.read_bytes())
    again.replace(path)
    read_weights(imagenet_file("toy"))
    assert len(hashed) == 1


def test_weights_without_a_record_are_not_trusted(toy):
    path = fetch.fetch_weights("toy")
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(ValueError, match="no record"):
        imagenet_file("toy")
    with pytest.raises(ValueError, match=f"no record.*set aside as {path}.bad"):
        fetch.fetch_weights("toy")


def test_weights_put_there_by_hand_are_kept(server, toy):
    _, file, *_ = fetch.source("toy")
    fetch.cache_dir().mkdir()
    (fetch.cache_dir() / file).write_bytes(server.body)
    assert fetch.fetch_weights("toy").exists() and (fetch.cache_dir() / file).exists() and not server.asked


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("what", ["code", "nested", "text", "list", "cut", "empty"])
def test_what_is_not_tensors_alone_is_refused_and_no_code_is_run(what, tmp_path):
    original = tmp_path / "evil.pth"
    x = torch.ones(2)
    held = {"code": {"x": Evil(tmp_path / "ran")}, "nested": {"model": {"x": x}}, "text": {"x": "y"}, "list": [x]}
    torch.save(held.get(what, {"x": x}), original)
    original.write_bytes(original.read_bytes()[: {"cut": 700, "empty": 0}.get(what)])
    with pytest.raises(ValueError, match="evil.pth"):
        fetch.convert(original, tmp_path / "evil.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


def test_the_papers_networks_have_a_source():
    for name in fetch.NETWORKS:
        url, file, prefix, size = fetch.source(name)
        assert url.startswith("https://") and url.endswith(file) and prefix in file and size > 3e7
    assert abs(fetch.source("alexnet")[3] - 244_408_911) < 1000  # the file's bytes; torchvision states them in units of 2**20
    with pytest.raises(UnknownName, match="did you mean 'vgg16'"):
        fetch.source("vgg-16")
