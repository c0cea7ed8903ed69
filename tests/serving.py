"""A server process of the runtime, what it is asked, and its end."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
from PIL import Image

PAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (140, 168, 3), dtype=np.uint8))


def data_url(image: Image.Image = PAGE) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def asked(text: str = "Read.", image: Image.Image | None = PAGE) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": data_url(image)}})
    return [{"role": "user", "content": parts}]


class Server:
    """A server process; `lines` are those of its standard error. While the file `hold` exists, answers pause."""

    def __init__(self, bundle: Path, *options: str, port: int = 0, hold: Path | None = None) -> None:
        program = ["qvl_runtime"] if hold is None else ["tests.runtime.held_server", str(hold)]
        command = [sys.executable, "-m", *program, "serve", str(bundle), "--port", str(port), "--threads", "1"]
        command += ["--model-name", "tiny", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self._wait(lambda: next(iter(re.findall(r"at (http://\S+)/v1", "\n".join(self.lines))), None))
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.lines.append(line.rstrip("\n"))

    def _wait(self, found: Callable[[], Any]) -> Any:
        for _ in range(6000):  # counted, not timed: a machine that was suspended is no failure
            if value := found():
                return value
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(self.lines)

    def wait_for_metric(self, line: str) -> None:
        self._wait(lambda: line in self.metrics())

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=300).text

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=options.pop("api_key", "none"), max_retries=0, **options
        )

    def post(self, **fields: Any) -> httpx.Response:
        body = {"model": "tiny", "messages": asked("Hi", None), **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=300)

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def end(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(300)


@contextlib.contextmanager
def serving(bundle: Path, *options: str, port: int = 0, hold: Path | None = None) -> Iterator[Server]:
    server = Server(bundle, *options, port=port, hold=hold)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)
