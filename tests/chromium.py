"""Debian's Chromium without a window, driven over the DevTools protocol through a pipe: no driver, no port, no package.

https://chromedevtools.github.io/devtools-protocol/. A page is used as a person does: keys, files and clicks are sent
to the browser, and what it shows is read.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--hide-scrollbars", "--mute-audio", "--no-proxy-server"),
)
PATIENCE = 3000
"""Most looks at a page, with `PAUSE` seconds between: counted, so that a machine that was suspended is no failure."""
PAUSE = 0.02
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9)}
"""Text and key code of named keys."""


def installed() -> str:
    """The browser's program; without one the test is skipped, or fails if it runs in CI."""
    if found := next(filter(None, map(shutil.which, PROGRAMS)), None):
        return found
    problem = "chromium is not installed: the page of serve is not tested (apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(problem)
    pytest.skip(problem)


class Browser:
    """A browser process with a profile of its own below `directory` and more options; usable in a `with`."""

    def __init__(self, directory: Path, *options: str) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", redirect, "bash", installed(), *OPTIONS, *options, f"--user-data-dir={directory}"]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.events: list[dict[str, Any]] = []
        self._count = 0
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)

    def _read(self) -> None:
        with os.fdopen(self._in, "rb") as file:
            rest = b""
            while piece := file.read1(1 << 16):
                *messages, rest = (rest + piece).split(b"\0")
                for message in map(json.loads, messages):
                    self._answers.put(message) if "id" in message else self.events.append(message)
        self._answers.put({"error": "the browser has ended"})

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Calls a method, and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._answers.get(timeout=120)
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def tab(self, url: str, width: int = 1200, height: int = 800, dark: bool = False) -> Tab:
        """Opens an address in a tab that shares nothing with others."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "DOM"):
            tab.send(f"{domain}.enable")
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.send("Emulation.setEmulatedMedia", features=[scheme])
        tab.send("Page.navigate", url=url)
        tab.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return tab


class Tab:
    """A page that is open."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **parameters)

    def value(self, script: str) -> Any:
        """Returns the value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str) -> Any:
        """Returns the value of an expression once that is true."""
        for _ in range(PATIENCE):
            if found := self.value(script):
                return found
            time.sleep(PAUSE)
        raise AssertionError(f"never true: {script}; the page says {self.value('document.body.innerText')!r}")

    def text(self, selector: str) -> str:
        """Returns the text of the last element that a selector finds; empty without one."""
        return str(self.value(f"[...document.querySelectorAll({selector!r})].at(-1)?.innerText ?? ''"))

    def count(self, selector: str) -> int:
        return int(self.value(f"document.querySelectorAll({selector!r}).length"))

    def choose(self, selector: str, file: Path) -> None:
        """Chooses a file in a file input, as its dialog does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(file.resolve())], nodeId=node)

    def drop(self, selector: str, file: Path) -> None:
        """Drags a file to an element, and drops it there."""
        box = f"const b = document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = self.value(f"(() => {{{box}; return [b.x + b.width / 2, b.y + b.height / 2]}})()")
        data = {"items": [], "files": [str(file.resolve())], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False) -> None:
        """Presses a key of `KEYS`."""
        text, code = KEYS[key]
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        kind = "keyDown" if text else "rawKeyDown"
        self.send("Input.dispatchKeyEvent", type=kind, **pressed, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def click(self, selector: str) -> None:
        self.value(f"document.querySelector({selector!r}).click()")

    def errors(self) -> Sequence[Any]:
        """Returns all that the console has as an error, violations of the policy among it."""
        found: list[Any] = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            method, given = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(given["exceptionDetails"])
            elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
                found.append(given["entry"])
            elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
                found.append(given["args"])
        return found

    def requested(self) -> set[str]:
        """Returns the addresses of everything that the page has loaded."""
        return set(self.value("performance.getEntriesByType('resource').map((entry) => entry.name)"))

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
