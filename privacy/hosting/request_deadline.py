"""HTTP connections on which a request must arrive in time.

uvicorn ends a connection that idles after an answer, but waits for ever for the rest of a request,
and for the first one. Such connections count against `limit_concurrency`: a few hundred of them,
from anybody who reaches the port, would keep everybody else out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

REQUEST_SECONDS = 15.0  # for all of a request, from its first byte on; the largest has 256 KiB


class DeadlineProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol, closing a connection whose next request is not complete
    `request_seconds` after it began, or after the connection was opened. Give the class as
    `uvicorn.Config(http=...)`."""

    request_seconds = REQUEST_SECONDS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request is awaited."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Part of a request, or all of it, has come."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._forget()
        super().connection_lost(exc)

    def _awaited(self) -> bool:
        """Whether it is the client's turn."""
        cycle = self.cycle
        return cycle is None or bool(cycle.response_complete or cycle.more_body)

    def _look(self) -> None:
        if not self._awaited() or self.transport.is_closing():
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.request_seconds, self._end)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        self._deadline = None
        if self._awaited():
            self.transport.abort()
