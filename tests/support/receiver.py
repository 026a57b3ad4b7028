"""A real HTTP server that keeps what it is sent: the other end of alerts."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(ThreadingHTTPServer):
    """`got` holds the JSON bodies; `status` is what is answered, after the (status, Retry-After) of `before`;
    `address` is an apprise URL."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict] = []
        self.status = 200
        self.before: list[tuple[int, str | None]] = []

    @property
    def address(self) -> str:
        return f"json://user:s3cret@127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, later = self.server.before.pop(0) if self.server.before else (self.server.status, None)
        if status == 200:
            self.server.got.append(body)
        self.send_response(status)
        if later is not None:
            self.send_header("Retry-After", later)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@contextmanager
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
