"""A file of which the publisher gives an MD5 and nothing better."""

import hashlib

import pytest
from toy_server import BODY, serving

from xai_repro.store import fetch as store


@pytest.fixture(scope="module")
def running():
    with serving() as handler:
        yield handler


@pytest.fixture
def server(running):
    running.cut = None
    running.asked.clear()
    return running


def test_an_md5_does_what_a_sha256_does(server, tmp_path):
    md5 = hashlib.md5(BODY).hexdigest()
    server.cut = 3_000_000
    with pytest.raises(OSError, match="go on from there"):
        store.fetch(server.url, "file.bin", folder=tmp_path, md5=md5)
    server.cut = None
    path = store.fetch(server.url, "file.bin", folder=tmp_path, md5=md5.upper())
    assert path.read_bytes() == BODY and server.asked[1] > 0
    assert store.wrong(path, md5=md5) is None and "has MD5" in store.wrong(path, md5="0" * 32)
    with pytest.raises(ValueError, match=f"has MD5 {md5}, but its publisher says {'0' * 32}; it was dropped"):
        store.fetch(server.url, "other.bin", folder=tmp_path, md5="0" * 32)
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize("md5", ["", "0" * 31, "0" * 33, "g" * 32, 3, b"0" * 32])
def test_what_is_no_md5(md5, server, tmp_path):
    with pytest.raises(ValueError, match="md5 is .*32 hexadecimal digits"):
        store.fetch(server.url, "file.bin", folder=tmp_path, md5=md5)
    assert not server.asked
