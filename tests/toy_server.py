"""A web server on this machine that behaves as badly as it is told to."""

import hashlib
import http.server
import threading
from contextlib import contextmanager

BODY = bytes(range(256)) * 20000  # 5 MB
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `body`, or its rest from the byte asked for; `cut` ends the transfer early, as a lost connection does.

    answer: a function of the handler that replies in place of this; asked: the first byte of each request so far.
    """

    body, cut, ranges, answer = BODY, None, True, None

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        self.asked.append(start)
        try:
            self.answer() if self.answer else self.serve(start)
        except OSError:
            pass  # the other side had enough
        self.close_connection = True

    def serve(self, start):
        if start >= len(self.body):
            self.send_error(416)
            return
        total = len(self.body)
        self.reply(206 if start else 200, {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}, total - start)
        self.wfile.write(self.body[start : self.cut])

    def reply(self, status=200, headers={}, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """A Handler class of its own, with the address of a file as its `url`, for as long as the block lasts."""
    handler = type("Fresh", (Handler,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}/file-{DIGEST[:8]}.bin"
        yield handler
        running.shutdown()
