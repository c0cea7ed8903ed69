"""Checks of every request before its body is read: the Host header and the API key."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ..requests.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PUBLIC = ("/", "/health")
"""Paths without a key: a page that is the same everywhere, and whether the server runs."""


class Guard:
    """Refuses requests for other `hosts` (None: any is served), and those without the API `key` if there is one.

    A page of another site can make a browser send requests to a server on the same machine, under a name that it lets
    point there (DNS rebinding): the Host header then has that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, key: str | None) -> None:
        self._app, self._hosts, self._key = app, hosts, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with an error."""
        if scope["type"] == "http" and (error := self._error(scope)) is not None:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._app(scope, receive, send)

    def _error(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if self._hosts is not None and (len(hosts) != 1 or _name(hosts[0]) not in self._hosts):
            return ApiError(421, "this server is not asked by that name (see --allowed-host)", code="wrong_host")
        if self._key is None or scope["path"] in PUBLIC:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key.encode()):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        return ApiError(401, "the API key is missing or wrong", code="invalid_api_key", headers=challenge)


def _name(host: str) -> str:
    """Returns the name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
