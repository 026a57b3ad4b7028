"""HTTP of the service: uvicorn's protocol, with limits on what comes before and after a body.

uvicorn reads the head of a request however long it is and however slowly it comes. Without limits, a program without a
token could fill the memory, or hold a connection forever.
"""

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 1 << 16  # of a request's line and headers, or of the trailers of a chunked body
HEAD_SECONDS = 30.0  # in which they come


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `uvicorn.Config(http=LimitedProtocol)`."""

    _unread = 0  # bytes that made nothing complete yet: no head, no part of a body, no end of a message
    _timer: TimerHandle | None = None  # until the head has come
    _headed = False  # has the head of this request come?

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._timer is None and self.timeout_keep_alive_task is None and not self._busy:
            self._await_head()  # the rest of a request that was answered before its end: uvicorn stopped its own timer

    def on_message_begin(self) -> None:
        self._headed = False
        super().on_message_begin()
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:  # a trailer: the body before it, in the same bytes, has set the count to 0
            self._unread += len(name) + len(value) + len(b": \r\n")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_came()
        self._unread, self._headed = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    @property
    def _busy(self) -> bool:
        """Is a request being answered?"""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_came()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._slow)

    def _head_came(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _slow(self) -> None:
        if self.transport.is_closing():
            return
        if self._busy:  # uvicorn reads no further until that one is answered
            self._await_head()
        elif self._unread:
            self._refuse(b"408 Request Timeout")
        else:
            self.transport.close()

    def _refuse(self, status: bytes) -> None:
        """Close the connection; say why if no other response is due."""
        if not self._busy:
            self.transport.write(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
        self.transport.close()
