"""Peers that are slow, broken, or lie: each ends in one clear error, and nothing that passes for the file is left."""

import gzip
import io
import time
from itertools import repeat

import pytest
import requests
from toy_server import BODY, DIGEST, serving

from xai_repro.store import fetch

PAGE = b"\n<!-- sign in -->\n<!DOCTYPE html><html><body>sign in first</body></html>" + b" " * 1000


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE", 1)
    with serving() as handler:
        yield handler


@pytest.fixture(autouse=True)
def only_the_lock_is_left(tmp_path):
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {".file.bin.lock", "file.bin.part", "file.bin", "file.bin.sha256"}


def refused(server, folder, match, prefix=None, size=None, seconds=8):
    """A fetch ends with an error of this text, soon, and the file is not there."""
    started = time.monotonic()
    with pytest.raises((OSError, ValueError), match=match) as error:
        fetch.fetch(server.url, "file.bin", prefix, folder, size)
    assert time.monotonic() - started < seconds and not (folder / "file.bin").exists()
    return str(error.value)


def drip(handler, blocks, pause):
    for block in blocks:
        handler.wfile.write(block)
        time.sleep(pause)


# -- Time ---------------------------------------------------------------------------------------------------------------


def test_a_peer_that_never_answers(server, tmp_path):
    server.answer = lambda handler: time.sleep(12)
    refused(server, tmp_path, "no answer within 1 seconds")


def test_a_peer_whose_answer_comes_byte_by_byte(server, tmp_path):
    server.answer = lambda handler: drip(handler, [b"HTTP/1.0 200 OK\r\nX-Filler: ", *repeat(b"x", 120)], 0.1)
    refused(server, tmp_path, "no answer within 1 seconds")


@pytest.mark.parametrize("block", [b"x", b""], ids=["a byte now and then", "nothing"])
def test_a_file_that_comes_too_slowly(server, tmp_path, block):
    def answer(handler):
        handler.reply(length=len(BODY))
        drip(handler, repeat(block, 120), 0.1)

    server.answer = answer
    refused(server, tmp_path, f"less than {fetch.BLOCK} bytes within 1 seconds")


def test_a_slow_file_that_makes_headway_arrives(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK", 1000)

    def answer(handler):
        handler.reply(length=8000)
        drip(handler, [BODY[i : i + 1000] for i in range(0, 8000, 1000)], 0.2)  # longer in all than PATIENCE

    server.answer = answer
    assert fetch.fetch(server.url, "file.bin", None, tmp_path).read_bytes() == BODY[:8000]


# -- Size ---------------------------------------------------------------------------------------------------------------


def endless(handler, headers={}, length=None, frame=b"%s"):
    handler.reply(200, headers, length)
    for _ in range(4000):
        handler.wfile.write(frame % (b"x" * 65536))


CHUNKED = {"headers": {"Transfer-Encoding": "chunked"}, "frame": b"10000\r\n%s\r\n"}


def chunked(server):
    server.protocol_version = "HTTP/1.1"
    server.answer = lambda handler: endless(handler, **CHUNKED)


def test_a_stream_without_an_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "UNSTATED", 3_000_000)
    server.answer = endless
    refused(server, tmp_path, "does not say how long")
    refused(server, tmp_path, "more than 3000000 bytes without saying how many: dropped", DIGEST[:8])
    chunked(server)
    refused(server, tmp_path, "more than 3000000 bytes without saying how many: dropped")
    assert not (tmp_path / "file.bin.part").exists()


def test_more_bytes_than_the_publisher_states(server, tmp_path):
    chunked(server)
    refused(server, tmp_path, "more than 2001999 bytes: dropped", size=2_000_000)
    assert not (tmp_path / "file.bin.part").exists()


def test_more_bytes_than_the_server_announced(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])

    def answer(handler):  # says that byte 1000 is followed by another 1000, and sends more
        handler.reply(206, {"Content-Range": "bytes 1000-1999/2000"}, len(BODY) - 1000)
        handler.wfile.write(BODY[1000:])

    server.answer = answer
    refused(server, tmp_path, "more than 2000 bytes: dropped", DIGEST[:8])
    assert not (tmp_path / "file.bin.part").exists()


def test_another_size_than_the_publisher_states_is_not_even_fetched(server, tmp_path):
    refused(server, tmp_path, f"has {len(BODY)} bytes, where its publisher states 4000000: nothing was fetched", size=4_000_000)
    assert not (tmp_path / "file.bin.part").exists()
    assert fetch.fetch(server.url, "file.bin", None, tmp_path, size=len(BODY) - 2000).exists()  # publishers round


def test_truncated_without_a_stated_length(server, tmp_path):
    def answer(handler):
        handler.reply()
        handler.wfile.write(BODY[:3_000_000])

    server.answer = answer
    refused(server, tmp_path, f"has 3000000 bytes, where its publisher states {len(BODY)}; it was dropped", size=len(BODY))
    refused(server, tmp_path, "does not say how long the file is, and nobody else does")
    server.answer = lambda handler: (handler.reply(), handler.wfile.write(BODY))
    assert fetch.fetch(server.url, "file.bin", None, tmp_path, size=len(BODY)).read_bytes() == BODY


def test_a_cut_off_file_without_a_checksum_starts_over(server, tmp_path):
    """Nothing would tell that the second piece is of the file of the first."""
    server.cut = 3_000_000
    refused(server, tmp_path, "nothing is kept")
    assert not (tmp_path / "file.bin.part").exists()
    server.cut, server.body = None, BODY[::-1]
    assert fetch.fetch(server.url, "file.bin", None, tmp_path).read_bytes() == BODY[::-1]
    assert server.asked == [0, 0]


# -- Something else than the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_in_place_of_the_file(server, tmp_path, tmp_path_factory, kind):
    server.answer = lambda handler: (handler.reply(200, {"Content-Type": kind}, len(PAGE)), handler.wfile.write(PAGE))
    refused(server, tmp_path, "web page")
    refused(server, tmp_path, "web page", prefix=DIGEST[:8], size=len(PAGE))
    assert fetch.fetch(server.url, "page.html", None, tmp_path_factory.mktemp("pages")).read_bytes() == PAGE


def test_many_comments_are_no_page_and_take_no_time():
    assert not fetch._PAGE.match(b"<!---->" * 290 + b"<x>")
    assert fetch._PAGE.match(b"\xef\xbb\xbf<?xml version='1.0'?>\n" + b"<!---->\n" * 99 + b"<HTML lang=x>")


@pytest.mark.parametrize("length", [0, None], ids=["stated", "not stated"])
def test_an_empty_file(server, tmp_path, length):
    server.answer = lambda handler: handler.reply(length=length)
    refused(server, tmp_path, "is empty" if length == 0 else "does not say")
    refused(server, tmp_path, "is empty", prefix=DIGEST[:8])


@pytest.mark.parametrize("status", [204, 304, 404, 416, 503])
def test_an_error_keeps_what_has_arrived(server, tmp_path, status):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    server.answer = lambda handler: handler.send_error(status)
    refused(server, tmp_path, f"answered {status}", DIGEST[:8])
    assert (tmp_path / "file.bin.part").exists() == (status != 416)  # 416: nothing follows what is there
    assert len(server.asked) == 1 + (status == 416)


def test_compressed_replies(server, tmp_path):
    packed = gzip.compress(BODY)

    def answer(handler, stubborn=False):
        pack = stubborn or "gzip" in handler.headers["Accept-Encoding"]
        handler.reply(200, {"Content-Encoding": "gzip"} if pack else {}, len(packed if pack else BODY))
        handler.wfile.write(packed if pack else BODY)

    server.answer = lambda handler: answer(handler, stubborn=True)
    assert "nothing was fetched" in refused(server, tmp_path, r"compresses \(gzip\) what was asked for as it is", DIGEST[:8])
    server.answer = answer
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY


# -- Redirects and ranges -----------------------------------------------------------------------------------------------


def test_redirects_are_followed_so_far(server, tmp_path):
    def answer(handler, to="/file"):
        handler.reply(302, {"Location": to}, 0) if handler.path != "/file" else handler.serve(0)

    server.answer = lambda handler: answer(handler, "/again")
    refused(server, tmp_path, "more than 10 redirects")
    server.answer = answer
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("start", ["https", "HTTPS"])
def test_no_redirect_leads_out_of_https(monkeypatch, tmp_path, server, start):
    class Elsewhere(requests.adapters.BaseAdapter):
        """Answers for https, without a certificate."""

        def send(self, request, **_):
            reply = requests.Response()
            reply.request, reply.url, reply.raw = request, request.url, io.BytesIO()
            reply.status_code, reply.headers["Location"] = 302, server.url
            return reply

        def close(self):
            pass

    get_adapter = requests.Session.get_adapter
    adapters = {"https": lambda session, url: Elsewhere(), "http": get_adapter}
    monkeypatch.setattr(requests.Session, "get_adapter", lambda session, url: adapters[url.lower().split(":")[0]](session, url))
    with pytest.raises(OSError, match="not protected by https: not followed"):
        fetch.fetch(f"{start}://example.org/file.bin", "file.bin", DIGEST[:8], tmp_path)
    assert not server.asked


@pytest.mark.parametrize("claim", ["bytes 0-{last}/{total}", "bytes 900-{last}/{total}", "nonsense", None])
def test_a_server_that_lies_about_ranges(server, tmp_path, claim):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    lies = {"Content-Range": claim.format(last=len(BODY) - 1, total=len(BODY))} if claim else {}

    def answer(handler):
        if "Range" not in handler.headers:
            return handler.serve(0)
        handler.reply(206, lies, len(BODY) - 1000)
        handler.wfile.write(BODY[1000:])

    server.answer = answer
    assert fetch.fetch(server.url, "file.bin", DIGEST[:8], tmp_path).read_bytes() == BODY
    assert server.asked == [1000, 0]


def test_a_piece_that_nobody_asked_for(server, tmp_path):
    def answer(handler, begin):
        handler.reply(206, {"Content-Range": f"bytes {begin}-{begin + 999}/2000"}, 1000)
        handler.wfile.write(BODY[begin : begin + 1000])

    server.answer = lambda handler: answer(handler, 5)
    refused(server, tmp_path, "answered 206")
    server.answer = lambda handler: answer(handler, 0)
    refused(server, tmp_path, "cut off at 1000 of 2000 bytes")


def test_another_piece_of_the_right_length_fails_the_checksum_and_is_dropped(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])

    def answer(handler):
        handler.reply(206, {"Content-Range": f"bytes 1000-{len(BODY) - 1}/{len(BODY)}"}, len(BODY) - 1000)
        handler.wfile.write(BODY[1001:] + b"x")

    server.answer = answer
    refused(server, tmp_path, "has SHA-256 .*dropped", DIGEST[:8])
    assert not (tmp_path / "file.bin.part").exists()
