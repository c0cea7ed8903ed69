"""URLs of requests: only public addresses, checked once and connected to as checked, within bounds."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from qvl_runtime.requests.errors import ApiError
from qvl_runtime.serve import fetch
from qvl_runtime.serve.fetch import Fetcher, is_public

PUBLIC = "93.184.216.34"
Handler = Callable[[bytes], Sequence[bytes]]


class Net:
    """A resolver and a connector for tests: names have scripted addresses, every connection leads to one server."""

    def __init__(self, names: dict[str, list[str]], port: int) -> None:
        self._names, self._port = {name: iter(found) for name, found in names.items()}, port
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self._names:
            raise socket.gaierror(-2, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(self._names[host]).split()
        ]

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        self.connected.append(address)
        return socket.create_connection(("127.0.0.1", self._port), timeout)

    def fetcher(self, **options: Any) -> Fetcher:
        return Fetcher(self.resolve, self.connect, **options)


@contextlib.contextmanager
def answering(*answers: Sequence[bytes], pause: float = 0) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives its connections these answers in order, piece by piece; yields its port and the requests."""
    listening, requests, ended = socket.create_server(("127.0.0.1", 0)), list[bytes](), threading.Event()

    def run() -> None:
        for answer in answers:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    for piece in answer:
                        connection.sendall(piece)
                        ended.wait(pause)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1], requests
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
        listening.close()
        thread.join(5)


def ok(content: bytes, *headers: bytes) -> list[bytes]:
    return [b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(content), *headers, b"", content])]


def moved(to: str) -> list[bytes]:
    return [f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()]


def refused(fetcher: Fetcher, url: str, why: str) -> None:
    with pytest.raises(ApiError, match=why) as caught:
        fetcher(url)
    assert caught.value.status == 400 and caught.value.code == "url_refused"
    assert url not in str(caught.value)


def test_a_public_name_is_fetched_from_the_address_that_was_checked() -> None:
    with answering(ok(b"picture")) as (port, requests):
        net = Net({"example.org": [PUBLIC]}, port)
        assert net.fetcher()("http://example.org/a/b.png?c=d#e") == b"picture"
    assert net.connected == [(PUBLIC, 80)]
    assert requests[0].startswith(b"GET /a/b.png?c=d HTTP/1.1\r\nHost: example.org\r\n")
    assert b"cookie" not in requests[0].lower() and b"authorization" not in requests[0].lower()


def test_rebinding_a_name_leads_nowhere() -> None:
    """The next answer of the name's server is a loopback address: a check that resolves once more would be fooled."""
    with answering(ok(b"picture")) as (port, _):
        net = Net({"rebind.example": [PUBLIC, "127.0.0.1"]}, port)
        assert net.fetcher()("http://rebind.example/") == b"picture"
        assert (net.asked, net.connected) == (["rebind.example"], [(PUBLIC, 80)])
        refused(net.fetcher(), "http://rebind.example/", "no public address")
        assert net.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"]
    + ["255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1"]
    + ["ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "2001::1"],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    net = Net({"evil.example": [address], "mixed.example": [f"{PUBLIC} {address}"]}, 9)
    refused(net.fetcher(), "http://evil.example/", "no public address")
    refused(net.fetcher(), "http://mixed.example/", "no public address")
    assert not net.connected


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://localhost:8080/metrics", "http://[::1]/", "http://2130706433/", "http://0x7f.1/"]
    + ["http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/", "http://0/"],
)
def test_addresses_of_this_machine_with_the_real_resolver(url: str) -> None:
    with pytest.raises(ApiError, match=r"no public address|cannot be fetched"):
        Fetcher(connect=lambda *_, **__: pytest.fail("connected"))(url)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/", "gopher://example.org/", "http:///etc", "http://example.org:99999/"]
    + [
        "http://user:word@example.org/",
        "http://exa mple.org/",
        "http://example.org/\r\nX: y",
        "http://ex\u00e4mple.org/",
    ]
    + ["http://[::1/", "http://example.org/" + "a" * 3000],
)
def test_what_is_no_plain_url(url: str) -> None:
    net = Net({"example.org": [PUBLIC] * 3}, 9)
    refused(net.fetcher(), url, "cannot be used: it ")
    assert not net.connected


def test_redirects_are_followed_and_checked() -> None:
    with answering(moved("/other"), moved("http://second.example/x"), ok(b"there")) as (port, requests):
        net = Net({"example.org": [PUBLIC] * 2, "second.example": ["8.8.8.8"]}, port)
        assert net.fetcher()("http://example.org/a") == b"there"
        assert net.connected == [(PUBLIC, 80), (PUBLIC, 80), ("8.8.8.8", 80)]
        assert [each.split()[1] for each in requests] == [b"/a", b"/other", b"/x"]
    for target in ("http://inside.example/", "http://127.0.0.1/", "file:///etc/passwd", "http://u@example.org/"):
        with answering(moved(target)) as (port, _):
            net = Net({"example.org": [PUBLIC] * 2, "inside.example": ["10.0.0.1"], "127.0.0.1": ["127.0.0.1"]}, port)
            refused(net.fetcher(), "http://example.org/", "cannot be used")
            assert len(net.connected) == 1
    with answering(*[moved("/again")] * 5) as (port, _):
        refused(Net({"example.org": [PUBLIC] * 9}, port).fetcher(), "http://example.org/", "more than 3 redirects")


def test_the_size_is_bounded_whatever_the_server_says() -> None:
    endless = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 5000] * 50]
    chunked = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1388\r\n" + b"x" * 5000 + b"\r\n"] * 50]
    for answer in (ok(b"x" * 20_001), endless, chunked):
        with answering(answer) as (port, _):
            refused(Net({"e.org": [PUBLIC]}, port).fetcher(bytes_left=20_000), "http://e.org/", "more than 32 MiB")
    with answering(ok(b"x" * 600), ok(b"x" * 600)) as (port, _):
        fetcher = Net({"e.org": [PUBLIC] * 2}, port).fetcher(bytes_left=1000)
        assert len(fetcher("http://e.org/")) == 600
        refused(fetcher, "http://e.org/", "the URLs of a request have more")


@pytest.mark.parametrize("part", ["head", "body", "nothing"])
def test_the_time_is_bounded_though_every_read_is_quick(part: str) -> None:
    head = [b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 90, b"\r\n"]
    body = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 400]
    answer = {"head": head, "body": body, "nothing": [b""] * 400}[part]
    with answering(answer, pause=0.02) as (port, _):
        fetcher = Net({"e.org": [PUBLIC]}, port).fetcher(seconds=0.3)
        began = fetch.monotonic()
        refused(fetcher, "http://e.org/", "not in time")
        assert fetch.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer",
    [[b"HTTP/1.1 404 Not Found\r\n\r\n"], [b"HTTP/1.1 206 Partial\r\n\r\nx"], [b"SSH-2.0-OpenSSH\r\n"], [b""]]
    + [ok(b"x", b"Content-Encoding: gzip"), [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"], moved("")],
)
def test_answers_that_are_none(answer: list[bytes]) -> None:
    with answering(answer, *[moved("")] * 4) as (port, _):
        refused(Net({"e.org": [PUBLIC] * 5}, port).fetcher(), "http://e.org/", "cannot be used: it")


def test_certificates_are_checked() -> None:
    with answering([b"this is no TLS"]) as (port, _):
        net = Net({"e.org": [PUBLIC]}, port)
        refused(net.fetcher(), "https://e.org/", "cannot be fetched")
        assert net.connected == [(PUBLIC, 443)]
