"""A server with OpenAI's chat interface whose answers are what a test says, for `compare --endpoint`."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
SSE = {"Content-Type": "text/event-stream"}


def events(*chunks: Any) -> bytes:
    """The body of a stream of chunks, with its end."""
    lines = [chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode() for chunk in chunks]
    return b"".join(b"data: " + line + b"\n\n" for line in [*lines, b"[DONE]"])


def text(*pieces: str, **last: Any) -> bytes:
    """A streamed answer in pieces."""
    chunks: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    return events(*chunks, {"choices": [{"delta": {}, "finish_reason": "stop"}], **last})


def failure(status: int, message: str = "broken", **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, names, json.dumps({"error": {"message": message}}).encode()


@dataclass
class StubServer:
    """`answer` gets the number of a chat request and its body; `keys` are what authorized requests of any kind."""

    answer: Callable[[int, dict[str, Any]], Reply]
    models: Reply = (200, {}, b'{"data": [{"id": "page-reader"}]}')
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(stub: StubServer) -> Iterator[StubServer]:
    """Serves the stub on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stub.keys.append(self.headers["Authorization"])
            self._send(stub.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.keys.append(self.headers["Authorization"])
            stub.requests.append(body)
            self._send(stub.answer(len(stub.requests), body))

        def _send(self, reply: Reply) -> None:
            status, headers, content = reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
