"""Runs the application over HTTP until a signal; what runs then is finished, what waits is refused."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from ..common.standard_streams import say
from .app import Service, create_app
from .options import ServeOptions
from .protocol import BoundedProtocol

KEEP_ALIVE, MOST_CONNECTIONS, BACKLOG = 5, 512, 128
"""Seconds of an idle connection; connections at the same time, waiting requests among them."""


def is_loopback(host: str) -> bool:
    """Whether a server at this address is reached from its own machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound; raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        opened.close()
        number = error.errno if isinstance(error, OSError) else None
        reason = error.strerror if isinstance(error, OSError) else None
        raise OSError(number, reason or str(error), f"{host}:{port}") from error
    return opened


class _Server(uvicorn.Server):
    """Ends on SIGINT or SIGTERM, at once on a second one; the signals are not raised again afterwards."""

    def __init__(self, app: Starlette) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            log_level="critical",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE,
            limit_concurrency=MOST_CONNECTIONS,
        )
        super().__init__(config)
        self._service: Service = app.state.service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            self._service.cancel()
        else:
            say(f"ending: {self._service.slots.running} running requests are finished; once more ends at once")
            asyncio.get_running_loop().call_soon_threadsafe(self._service.slots.drain)
            self.should_exit = True


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM."""
    asyncio.run(_Server(app).serve([listening]))


__all__ = ["ServeOptions", "create_app", "is_loopback", "listen", "serve"]
