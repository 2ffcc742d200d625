"""Bad inputs to fetching: names, addresses, what a publisher states, what a server answers, what files hold."""

import pickle
from pathlib import Path

import pytest
import torch
from toy_bad import cases, refused, untouched
from toy_server import BODY, DIGEST, serving

from xai_repro.errors import UnknownName
from xai_repro.store import fetch as module
from xai_repro.store.fetch import convert, fetch, fetch_weights, source

PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
MADE = ("new", ".x.bin.lock", ".y.bin.lock")


@pytest.fixture(scope="module", autouse=True)
def server():
    with serving() as handler:
        yield handler


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PATIENCE", 2)
    server.body, server.cut, server.answer, ours.server = BODY, None, None, server
    Path("file").write_text("mine"), Path("cache").mkdir(), Path("cache/mine.bin").write_text("mine"), Path("folder").mkdir()
    torch.save({"a": torch.ones(3)}, "good.pth"), torch.save([torch.ones(3)], "list.pth"), torch.save({1: torch.ones(3)}, "numbers.pth"), torch.save({"a": {"b": torch.ones(3)}}, "nested.pth")
    for name, held in [("cut.pth", Path("good.pth").read_bytes()[:300]), ("empty.pth", b""), ("text.pth", b"weights"), ("code.pth", pickle.dumps(print, protocol=2)), ("page.pth", PAGE)]:
        Path(name).write_bytes(held)
    with untouched(tmp_path, MADE):
        yield


def ours(name="x.bin", prefix=None, size=None, folder="new", url=None):
    return fetch(url or ours.server.url, name, prefix, folder, size)


def answers(status=200, body=BODY, headers={}, length=None, **asked):
    """Fetch a file of which the server says such things."""

    def answer(handler):
        handler.reply(status, headers, length)
        handler.wfile.write(body)

    ours.server.answer = answer
    return ours(**asked)


NAMES = [
    *((f"a name: {given!r:.40}", lambda given=given: ours(given), ValueError, "cannot name a fetched file", said) for given, said in [
        ("", "''"), (".", "'.'"), ("..", "'..'"), ("../x.bin", "'../x.bin'"), ("/etc/passwd", "'/etc/passwd'"), ("a/b", "'a/b'"), ("a\\b", "a\\\\b"), ("C:x", "'C:x'"), ("x\0", "x"), ("x\n", "x"), (" x", "' x'"), (".hidden", "'.hidden'"), ("-x", "'-x'"), ("x.", "'x.'"),
        ("x.part", "'x.part'"), ("x.sha256", "x.sha256"), ("x.bad", "x.bad"), ("x.BAD.2", "x.BAD.2"), ("con", "'con'"), ("NUL.txt", "'NUL.txt'"), ("lpt1", "'lpt1'"), ("n" * 300, "..."), ("caf\u00e9", "caf"), ("x$y", "x$y"), ("x y", "x y"), ("~x", "~x"),
        (None, "None"), (3, "3"), (b"x", "b'x'"), (Path("x"), "x"), (["x"], "x"),
    ]),
    *((f"weights of {given!r:.40}", lambda given=given: of(given), UnknownName, "unknown network", said) for given, said in [("vgg-16", "did you mean 'vgg16'"), ("", "''"), (None, "'None'"), (["vgg16"], "vgg16"), (16, "'16'"), ("mini-vgg", "vgg"), ("../vgg16", "vgg16")] for of in [source]),
    ("weights to fetch of a typo", lambda: fetch_weights("resnet5O"), UnknownName, "did you mean 'resnet50'"),
]  # fmt: skip
ADDRESSES = [
    *((f"an address: {given!r:.40}", lambda given=given: ours(url=given), OSError, "could not fetch", said) for given, said in [
        ("x.bin", "x.bin"), ("http://", "http://"), ("http:///x.bin", "x.bin"), ("ftp://127.0.0.1/x.bin", "ftp://"), ("file:///etc/passwd", "file://"), ("http://127.0.0.1:1/x.bin", "127.0.0.1:1"), ("http://127.0.0.1:99999/x", "99999"), ("http://[::1", "[::1"), ("C:\\x.bin", "C:"),
    ]),
    *((f"an address: {given!r:.40}", lambda given=given: ours(url=given), ValueError, "no address of a file", said) for given, said in [(3, "3"), (b"http://x", "http"), (["http://x"], "http"), (Path("x"), "x")]),
    *((f"a prefix: {given!r:.40}", lambda given=given: ours(prefix=given), ValueError, "prefix", said) for given, said in [(3, "3"), (b"abc", "abc"), ("xyz", "'xyz'"), (["a"], "a"), (DIGEST + "0", "hexadecimal"), ("12 34", "12 34"), ("0x12", "0x12")]),
    *((f"a size: {given!r:.40}", lambda given=given: ours(size=given), ValueError, "size", said) for given, said in [(-5, "-5"), ("5 MB", "'5 MB'"), (float("nan"), "nan"), ([5], "[5]"), (1.5, "1.5"), (True, "True"), (0, "0")]),
    *((f"a folder: {given!r:.40}", lambda given=given: ours(folder=given), kind, said) for given, kind, said in [("file", OSError, "file is a file"), ("file/below", OSError, "cannot write to file/below"), (3, ValueError, "folder is 3"), (b"new", ValueError, "folder is"), ("n" * 300, OSError, "too long"), ("a\0b", OSError, "cannot")]),
]  # fmt: skip
REPLIES = [
    *((f"a reply with status {status}", lambda status=status: answers(status, b""), OSError, f"answered {status}", "nothing was fetched") for status in (204, 304, 400, 401, 403, 404, 410, 416, 418, 429, 500, 502, 503, 504)),
    ("a web page by its kind", lambda: answers(headers={"Content-Type": "text/html"}, length=len(BODY)), OSError, "answered with a web page"),
    ("a web page by what it holds", lambda: answers(body=PAGE, length=len(PAGE)), ValueError, "is a web page", "it was dropped"),
    ("a web page after a mark of its encoding", lambda: answers(body=b"\xef\xbb\xbf\n" + PAGE, length=len(PAGE) + 4), ValueError, "is a web page"),
    ("nothing", lambda: answers(body=b"", length=0), ValueError, "is empty", "it was dropped"),
    ("no length", lambda: answers(), OSError, "does not say how long the file is"),
    ("a compressed reply", lambda: answers(headers={"Content-Encoding": "gzip"}, length=len(BODY)), OSError, "compresses (gzip)"),
    ("less than announced", lambda: answers(length=len(BODY) + 5), OSError, "could not fetch", "start again"),
    ("another size than stated", lambda: answers(length=len(BODY), size=4000), OSError, "4000", "nothing was fetched"),
    ("less than stated, without a length", lambda: answers(body=BODY[:4000], size=len(BODY)), ValueError, "4000 bytes", "states 5120000"),
    ("another file than by its checksum", lambda: ours(prefix="0" * 8), ValueError, "has SHA-256", "its publisher says 00000000", "it was dropped"),
    ("a redirect to nowhere", lambda: answers(302, b"", {"Location": "http://127.0.0.1:1/"}), OSError, "could not fetch"),
    ("redirects without end", lambda: answers(302, b"", {"Location": "/again"}), OSError, "more than 10 redirects"),
    ("a redirect to a file of this machine", lambda: answers(302, b"", {"Location": "file:///etc/passwd"}), OSError, "could not fetch"),
    ("a piece that nobody asked for", lambda: answers(206, BODY[100:], {"Content-Range": f"bytes 100-{len(BODY) - 1}/{len(BODY)}"}, len(BODY) - 100), OSError, "answered 206"),
]  # fmt: skip
FILES = [
    *((f"weights in a file: {name}", lambda name=name: convert(name, "new.safetensors"), ValueError, name, *said) for name, *said in [
        ("cut.pth", "cannot be read as tensors alone"), ("empty.pth", "cannot be read as tensors alone"), ("text.pth", "cannot be read"), ("code.pth", "cannot be read"), ("page.pth", "cannot be read"), ("list.pth", "more than tensors by name"),
        ("numbers.pth", "more than tensors by name"), ("nested.pth", "more than tensors by name"), ("nowhere.pth", "cannot be read"), ("folder", "cannot be read"),
    ]),
]  # fmt: skip


@cases(NAMES, ADDRESSES, REPLIES, FILES)
def test_fetching(call, kind, words):
    refused(call, kind, words)
