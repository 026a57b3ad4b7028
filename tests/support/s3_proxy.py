"""A proxy before an S3 server that does to requests what networks do: loses replies, cuts them, is busy.

`proxy.rule` is asked about every request and names what happens to it; `proxy.seen` lists what came.
"""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PASS, FAIL, BUSY, LOSE, CUT = "pass", "fail", "busy", "lose", "cut"
ANSWERS = {FAIL: (503, "SlowDown"), BUSY: (409, "ConditionalRequestConflict")}  # the server never hears of these


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]

    def writes(self, key: str) -> bool:
        return self.method == "PUT" and urlsplit(self.path).path.endswith(key)


@dataclass
class Proxy:
    """LOSE: the server has done it, the reply never comes. CUT: half of the reply comes."""

    target: str
    endpoint: str = ""
    rule: Callable[[Request], str] = lambda request: PASS
    seen: list[Request] = field(default_factory=list)


@contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    """A proxy before the server at `endpoint`, while the block lasts."""
    proxy = Proxy(urlsplit(endpoint).netloc)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self):
            self.close_connection = True
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers.items()))
            proxy.seen.append(request)
            action = proxy.rule(request)
            if action in ANSWERS:
                status, code = ANSWERS[action]
                self._reply(status, [], f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())
                return
            status, headers, content = _forward(proxy.target, request, body)
            if action != LOSE:
                self._reply(status, headers, content, half=action == CUT)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

        def _reply(self, status: int, headers: list, content: bytes, half: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = dict((name.lower(), value) for name, value in headers).get("content-length", "0")
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if half else content)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # clients that hang up

    server = Quiet(("127.0.0.1", 0), Handler)
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _forward(target: str, request: Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(target, timeout=60)
    try:
        connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():  # the host too: it is signed
            if name.lower() not in ("expect", "connection"):
                connection.putheader(name, value)
        connection.endheaders(body or None)
        reply = connection.getresponse()
        return reply.status, reply.getheaders(), reply.read()
    finally:
        connection.close()
