"""Fetches http(s) URLs for requests, from public addresses only.

A name is resolved once, every address it has must be public, and the connection is made to the address that was
checked: a name that resolves otherwise a moment later (DNS rebinding) leads nowhere. Redirects are checked likewise.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from ..requests.errors import ApiError

MAX_BYTES, MAX_SECONDS, MAX_REDIRECTS, MAX_URL = 32 << 20, 15.0, 3, 2048
"""Of all URLs of a request together, except for redirects and length, which are those of one URL."""
CHUNK = 1 << 16
_EMBEDDED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
"""IPv6 networks whose addresses stand for IPv4 addresses, private ones among them."""
Resolve = Callable[..., Sequence[Any]]
Connect = Callable[..., socket.socket]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, whichever way it is written."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if any(found in network for network in _EMBEDDED):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


@dataclass
class Fetcher:
    """Fetches the URLs of one request within one budget of bytes and seconds; raises ApiError 400."""

    resolve: Resolve = socket.getaddrinfo
    connect: Connect = socket.create_connection
    bytes_left: int = MAX_BYTES
    seconds: float = MAX_SECONDS
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = monotonic() + self.seconds

    def __call__(self, url: str) -> bytes:
        """Returns the content behind a URL, redirects followed."""
        for _ in range(MAX_REDIRECTS + 1):
            try:
                with self._response(_parsed(url)) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        return self._read(response)
                    url = urljoin(url, response.getheader("Location") or "")
            except (OSError, http.client.HTTPException, ValueError) as error:  # an SSL error is an OSError
                raise _failed("it cannot be fetched, or not in time") from error
        raise _failed(f"it has more than {MAX_REDIRECTS} redirects")

    @contextlib.contextmanager
    def _response(self, url: SplitResult) -> Iterator[http.client.HTTPResponse]:
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        opened = self.connect((self._address(host, port), port), timeout=self._left())
        if url.scheme == "https":
            context = ssl.create_default_context()
            opened = context.wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
        ending = threading.Timer(max(self._until - monotonic(), 0), _shut, [opened])  # its timeout is one of each read
        ending.daemon = True
        ending.start()
        try:
            if isinstance(opened, ssl.SSLSocket):
                opened.do_handshake()
            connection = http.client.HTTPConnection(host, port)
            connection.sock = opened
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("GET", path, headers={"Accept-Encoding": "identity", "User-Agent": "qvl-runtime"})
            with connection.getresponse() as response:
                yield response
        finally:
            ending.cancel()
            opened.close()

    def _address(self, host: str, port: int) -> str:
        """Returns the first address of a host; raises ApiError if any of its addresses is not public."""
        found = [str(entry[4][0]) for entry in self.resolve(host, port, type=socket.SOCK_STREAM)]
        if not found or not all(map(is_public, found)):
            raise _failed("its host has no public address")
        return found[0]

    def _left(self) -> float:
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if response.status != 200:
            raise _failed(f"its server answers with status {response.status}")
        if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise _failed("its server compresses the content")
        content = bytearray()
        while piece := response.read1(CHUNK):
            content += piece
            self._left()
            if len(content) > self.bytes_left:
                raise _failed(f"the URLs of a request have more than {MAX_BYTES >> 20} MiB")
        self._left()  # at the end of the time the connection looks as if it had ended
        if response.length:  # it ended too early
            raise http.client.IncompleteRead(bytes(content))
        self.bytes_left -= len(content)
        return bytes(content)


def _parsed(url: str) -> SplitResult:
    """Returns the parts of a URL; raises ApiError for one that is not plain http or https."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _failed("it is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > MAX_URL or not url.isascii():
        raise _failed("it is not a plain http or https URL")
    if "@" in parts.netloc or any(sign <= " " or sign == "\x7f" for sign in url):
        raise _failed("it has a user name or white space")
    return parts


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _failed(why: str) -> ApiError:
    """The URL is left out: it may hold a secret, and the client knows it."""
    return ApiError(400, f"a URL of the request cannot be used: {why}", code="url_refused")
