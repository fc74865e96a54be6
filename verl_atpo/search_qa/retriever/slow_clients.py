"""HTTP connections with time limits: clients that send or receive too slowly are disconnected.

uvicorn waits without limit for the rest of a request and for a client to read its answer. Both hold a file descriptor,
and the latter also the memory of the answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_REFUSAL = b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_MOST_HEADER_BYTES = 1 << 16


_Base: Any = AutoHTTPProtocol


class TimedProtocol(_Base):
    """A connection whose client has ``patience_s`` seconds to send a request, and again to receive its answer.

    A request must be complete within that time after its first byte (a connection's first request: after the
    connection was made), else the answer is 408. Headers longer than 64 KiB are answered by 431. An answer must be
    received within that time after it was sent, else the connection is closed.
    """

    patience_s: float
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _answered: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._reading = self.loop.call_later(self.patience_s, self._request_timed_out)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._header_bytes = self._header_bytes + len(data) if self._waits_for_headers() else 0
        if self._header_bytes > _MOST_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._waits_for_headers() or self.cycle.more_body:
            if self._reading is None:
                self._reading = self.loop.call_later(self.patience_s, self._request_timed_out)
        else:
            self._stop("_reading")

    def on_response_complete(self) -> None:
        self._stop("_writing")
        self._writing = self.loop.call_later(self.patience_s, self._answer_timed_out)
        super().on_response_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop("_reading")
        self._stop("_writing")
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True  # uvicorn marks the latest request only, which may wait for this one
        super().connection_lost(exc)

    def _waits_for_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
        setattr(self, name, None)

    def _request_timed_out(self) -> None:
        self._reading = None
        self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        if self._waits_for_headers() or not self.cycle.response_started:
            self.transport.write(_REFUSAL % status)
        self.transport.close()
        self._stop("_writing")
        self._writing = self.loop.call_later(self.patience_s, self._answer_timed_out)

    def _answer_timed_out(self) -> None:
        self._writing = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()


def timed_protocol(patience_s: float) -> type[TimedProtocol]:
    """Make a class of connections with this limit: uvicorn is given a class, and makes the connections itself."""
    return type("TimedProtocol", (TimedProtocol,), {"patience_s": patience_s})
