"""HTTP/1.1 with a time in which the headers of a request have to arrive, which uvicorn does not have."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..requests.errors import ApiError

HEADER_SECONDS = 20.0
"""From a connection, or from the end of the answer before, to the end of a request's headers."""


class BoundedProtocol(H11Protocol):
    """Closes connections that keep no request going for `HEADER_SECONDS`, however slowly bytes still arrive.

    uvicorn's own time for idle connections is over once a byte arrives, so that a client could hold them all. The body
    of a request has its time in `app.body_of`; if a body goes on after its answer, this one's time counts.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for headers."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """Begins to wait for the headers of the next request, which may be there already."""
        self._wait()
        super().on_response_complete()

    def handle_events(self) -> None:
        """Ends the wait if there is a request."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._expired)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        if not self.transport.is_closing() and self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._send(ApiError(408, "the headers did not arrive in time", code="timeout"))
        self.transport.close()

    def _send(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        head = h11.Response(status_code=error.status, headers=headers, reason=b"Request Timeout")
        events: list[Any] = [head, h11.Data(data=body), h11.EndOfMessage()]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
