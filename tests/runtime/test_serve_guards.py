"""The Host header and the API key."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from qvl_runtime.serve.guards import LOOPBACK, Guard


def client(hosts: Any = LOOPBACK, key: str | None = None) -> TestClient:
    async def reached(_: Any) -> PlainTextResponse:
        return PlainTextResponse("reached")

    routes = [Route(path, reached, methods=["GET", "POST"]) for path in ("/", "/health", "/metrics", "/v1/models")]
    return TestClient(Guard(Starlette(routes=routes), hosts, key))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.0.0.1", "[::1]", "[::1]:80"])
def test_names_of_this_machine(host: str) -> None:
    assert client().get("/", headers={"Host": host}).text == "reached"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io:8080", "127.0.0.1@evil.example"]
    + ["", ":8080", "localhost:", "localhost:80:80", "localhost, evil.example", "::1", "0.0.0.0:8080", "127.0.0.2"],
)
def test_other_names_are_refused(host: str) -> None:
    for path in ("/", "/health", "/v1/models"):
        answer = client().get(path, headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")
    assert client(None).get("/", headers={"Host": host}).text == "reached", "a server that is open to others"


def test_two_host_headers_are_refused() -> None:
    answer = client().get("/", headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert answer.status_code == 421


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", "Bearer secre", "Bearer secret2", "secret", "Basic secret", "Bearer \u00e9"],
)
def test_a_key_is_asked_for(given: str | None) -> None:
    headers = [(b"Host", b"localhost"), *([] if given is None else [(b"Authorization", given.encode())])]
    for path in ("/v1/models", "/metrics", "/v1/else", "/v1/pages", "/health/", "/%2f", "/./v1"):
        answer = client(key="secret").get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/"):  # the page itself is the same everywhere
        assert client(key="secret").get(path, headers=headers).text == "reached"


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", "Bearer  secret "])
def test_the_key_opens(given: str) -> None:
    assert (
        client(key="secret").get("/v1/models", headers={"Host": "localhost", "Authorization": given}).status_code == 200
    )
