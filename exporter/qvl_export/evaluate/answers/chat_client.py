"""Asks a server with OpenAI's chat interface: streams an answer, and waits and tries again where the server says so."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from qvl_runtime.printable import one_line

from ...errors import ExportError, StoppedError
from .endpoint_names import Endpoint

SECONDS, CHECK_SECONDS = 600.0, 10.0
"""Most time of an answer, and of the question which models there are."""
MAX_BYTES, MAX_LINE = 64 << 20, 8 << 20
TRIES, LONGEST_WAIT = 5, 60.0
BUSY = (429, 502, 503, 504)
"""Statuses after which a request is tried again."""
REFUSES_ALL = (401, 403, 404)
"""Statuses of a server that answers no request like this one: a wrong key, a model or a path that it does not have."""
REDIRECTS = (301, 302, 303, 307, 308)
Json = dict[str, Any]
Sleep = Callable[[float], None]


class ServerError(ExportError):
    """A server refused a request or failed; `status` is that of HTTP, 0 if there was no whole answer.

    What a server said is in it only as `_quoted` returns it: servers may repeat the key.
    """

    def __init__(self, what: str, endpoint: Endpoint, status: int = 0, fix: str = "") -> None:
        super().__init__(what, where=f"{endpoint.title} ({endpoint.url})", fix=fix)
        self.status = status


def resolve_model(endpoint: Endpoint) -> str:
    """Returns the name of the model to ask for; raises ServerError if the server does not answer or has several."""
    try:
        with _open(endpoint, "/models", None, CHECK_SECONDS) as response:
            value = json.loads(response.read(MAX_LINE))
        names = [str(entry["id"]) for entry in value["data"]]
    except ServerError as error:
        if endpoint.model and error.status == 404:  # it has no such list
            return endpoint.model
        raise
    except (ValueError, TypeError, LookupError, OSError, http.client.HTTPException) as error:
        raise ServerError("its /models is not a list of models", endpoint, fix="is the URL that of /v1?") from error
    if endpoint.model or len(names) == 1:
        return endpoint.model or names[0]
    shown = _quoted(", ".join(names[:8]) or "none", endpoint)
    raise ServerError(f"it has {len(names)} models: {shown}", endpoint, fix="choose one with ,model=MODEL")


def stream_chat(endpoint: Endpoint, body: Json, sleep: Sleep = time.sleep) -> Iterator[Json]:
    """Yields the chunks of an answer, or the one object of a server that does not stream.

    Raises ServerError, and StoppedError if no server answers any more.
    """
    until = time.monotonic() + SECONDS
    with _patiently(endpoint, body, sleep) as response:
        try:
            if "event-stream" not in response.headers.get("Content-Type", ""):
                yield _object(response.read(MAX_BYTES), endpoint)
                return
            size = 0
            while line := response.readline(MAX_LINE):
                size += len(line)
                if size > MAX_BYTES or time.monotonic() > until:
                    raise ServerError("its answer does not end", endpoint)
                if not line.startswith(b"data:"):
                    continue
                if (data := line[5:].strip()) == b"[DONE]":
                    return
                yield _object(data, endpoint)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"its answer broke off: {_reason(error, endpoint)}", endpoint) from error
    raise ServerError("its answer broke off", endpoint)


def _patiently(endpoint: Endpoint, body: Json, sleep: Sleep) -> Any:
    """Sends a request; where the server is busy or gone, waits as `Retry-After` says, else 1, 2, 4 … seconds."""
    data = json.dumps(body).encode()
    for tried in range(TRIES):
        try:
            return _open(endpoint, "/chat/completions", data, SECONDS)
        except _Busy as error:
            if tried < TRIES - 1:
                sleep(min(error.wait if error.wait is not None else 2.0**tried, LONGEST_WAIT))
            elif error.status:
                raise
            else:
                fix = "start it again: the same command continues"
                raise StoppedError(error.what, where=error.where, fix=fix) from error
    raise AssertionError


class _Busy(ServerError):
    """The server is busy, or with the status 0 none is there.

    `wait` are the seconds after which it wants to be asked again, None if it did not say.
    """

    wait: float | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error: the key would go to another host, and a POST would become a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _open(endpoint: Endpoint, path: str, data: bytes | None, seconds: float) -> Any:
    """Sends a request; raises ServerError, and ExportError if the key cannot be sent."""
    key = endpoint.key()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(endpoint.url + path, data, headers)
    try:
        return urllib.request.build_opener(_NoRedirects).open(request, timeout=seconds)
    except urllib.error.HTTPError as error:
        raise _refused(error, endpoint) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        kind = _Busy if isinstance(getattr(error, "reason", None), ConnectionRefusedError) else ServerError
        fix = "start it, or check the address" if data is None else ""
        raise kind(f"no server answers: {_reason(error, endpoint)}", endpoint, fix=fix) from error


def _refused(error: urllib.error.HTTPError, endpoint: Endpoint) -> ServerError:
    """Returns the error for a status of HTTP, with what the server says about it."""
    with error:
        try:
            said = json.loads(error.read(1 << 16))["error"]
            said = said["message"] if isinstance(said, dict) else said
        except (ValueError, TypeError, LookupError, OSError, http.client.HTTPException):
            said = error.reason
    what = f"status {error.code}: {_quoted(said, endpoint)}"
    if error.code in REDIRECTS:
        to = _quoted(error.headers.get("Location") or "nowhere", endpoint)
        return ServerError(f"{what}, a redirect to {to}", endpoint, error.code, "redirects are not followed")
    if error.code not in BUSY:
        fix = "give its key with ,key_env=VARIABLE" if error.code in (401, 403) else ""
        return ServerError(what, endpoint, error.code, fix)
    busy = _Busy(what, endpoint, error.code)
    wait = (error.headers.get("Retry-After") or "").strip()
    busy.wait = float(wait) if wait.isdecimal() and len(wait) < 6 else None
    return busy


def _object(data: bytes, endpoint: Endpoint) -> Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        begin = _quoted(data.decode("utf-8", "replace"), endpoint, 60)
        raise ServerError(f"its answer is not JSON: {begin}", endpoint) from error
    if not isinstance(value, dict):
        raise ServerError("its answer is not a JSON object", endpoint)
    if (failure := value.get("error")) is not None:
        said = failure.get("message") if isinstance(failure, dict) else failure
        raise ServerError(f"it failed: {_quoted(said, endpoint)}", endpoint)
    return value


def _reason(error: BaseException, endpoint: Endpoint) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return _quoted(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__, endpoint)


def _quoted(said: object, endpoint: Endpoint, most: int = 300) -> str:
    """Returns at most `most` characters of what a server says, on one line, without the key."""
    return one_line(endpoint.without_key(str(said)))[:most]
