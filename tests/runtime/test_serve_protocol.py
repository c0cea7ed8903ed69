"""Clients that send the headers of a request slowly, or never to their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.server import ServerState

from qvl_runtime.serve import protocol, server
from qvl_runtime.serve.protocol import BoundedProtocol

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def served(test: Callable[[Streams], Awaitable[None]], app: ASGIApp | None = None) -> None:
    """Runs a test with a connection to an application that says `{}`."""

    async def main() -> None:
        loop, state = asyncio.get_running_loop(), ServerState()
        config = Config(app or JSONResponse({}), http=BoundedProtocol, log_level="critical", lifespan="off")
        config.load()
        listening = await loop.create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        streams = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.wait_for(test(streams), 60)
        streams[1].close()
        listening.close()

    asyncio.run(main())


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.3)


async def drip(streams: Streams) -> None:
    """Sends a header a byte at a time until the connection ends."""
    for _ in range(2000):
        await asyncio.sleep(0.01)
        streams[1].write(b"x")
        if streams[0].at_eof() or streams[1].is_closing():
            return  # at_eof is true once what was sent is read
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(streams[0].read(1 << 16), 0.001)


@pytest.mark.usefixtures("_short")
def test_headers_that_stop_are_answered_with_408() -> None:
    async def test(streams: Streams) -> None:
        streams[1].write(HEAD + b"X-Slow: ")
        head = await streams[0].readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and b"connection: close" in head.lower()
        body = json.loads(await streams[0].read())
        assert body["error"]["message"] == "the headers did not arrive in time"

    served(test)


@pytest.mark.usefixtures("_short")
def test_headers_that_never_end_end_with_the_connection() -> None:
    async def test(streams: Streams) -> None:
        streams[1].write(HEAD + b"X-Slow: ")
        await drip(streams)
        assert streams[0].at_eof() or streams[1].is_closing()

    served(test)


@pytest.mark.usefixtures("_short")
def test_a_connection_that_says_nothing_is_closed() -> None:
    async def test(streams: Streams) -> None:
        assert await streams[0].read() == b""

    served(test)


@pytest.mark.usefixtures("_short")
def test_the_next_headers_of_a_connection_have_the_same_time() -> None:
    """uvicorn's time of an idle connection would be over with the first byte."""

    async def test(streams: Streams) -> None:
        streams[1].write(HEAD + b"\r\n")
        assert (await streams[0].readuntil(b"{}")).startswith(b"HTTP/1.1 200 ")
        streams[1].write(HEAD)
        assert (await streams[0].read()).startswith(b"HTTP/1.1 408 ")

    served(test)


@pytest.mark.usefixtures("_short")
def test_an_answer_takes_its_time() -> None:
    async def slow(scope: object, receive: object, send: object) -> None:
        request = Request(scope, receive)  # type: ignore[arg-type]
        await asyncio.sleep(0.9)
        await Response("late")(request.scope, request.receive, send)  # type: ignore[arg-type]

    async def test(streams: Streams) -> None:
        streams[1].write((HEAD + b"\r\n") * 2)  # the second one waits for the first
        for _ in range(2):
            assert (await streams[0].readuntil(b"late")).startswith(b"HTTP/1.1 200 ")

    served(test, slow)


@pytest.mark.usefixtures("_short")
def test_a_body_that_goes_on_after_its_answer_ends_with_the_connection() -> None:
    async def test(streams: Streams) -> None:
        streams[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert (await streams[0].readuntil(b"{}")).startswith(b"HTTP/1.1 200 ")
        await drip(streams)
        assert streams[0].at_eof() or streams[1].is_closing()

    served(test)


def test_the_server_speaks_this_protocol() -> None:
    app = Starlette()
    app.state.service = None
    assert server._Server(app).config.http is BoundedProtocol
