"""The report about another server: `compare --endpoint` with llama-cpp-python's, which reads a GGUF of the reference.

    python -m tests.bench.compare_server [--items 100] [--cache DIR]

llama.cpp's environment is that of `tests.bench.peers` (built once, below --cache), with the packages of the server.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from qvl_export import export
from tests.conftest import REFERENCE
from tests.heldout import HELDOUT
from tests.plans import export_plan

from .peers.__main__ import CACHE
from .peers.llama_cpp import PEERS
from .peers.measure import ready
from .peers.venvs import run

SERVER = ("uvicorn", "fastapi", "pydantic-settings", "sse-starlette", "starlette-context", "PyYAML")
EXPORTER = "from qvl_export.cli.main import main; main()"
TRIES, WAIT_SECONDS = 300, 0.2


def prepared(cache: Path, directory: Path) -> tuple[Path, Path]:
    """Returns llama.cpp's Python and the directory of the converted reference checkpoint."""
    peer = next(peer for peer in PEERS if peer.precision == "Q8_0")
    (entry,) = ready([peer], REFERENCE, directory, cache, Path(sys.executable), True, print)
    if entry.reason:
        raise SystemExit(f"error: {entry.reason}")
    with (directory / "server.log").open("w") as log:
        run([str(entry.python), "-m", "pip", "install", "--quiet", *SERVER], log)
    return entry.python, entry.model


def started(python: Path, model: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Starts the server; returns its process and its URL once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ["--model", str(model / "model.gguf"), "--clip_model_path", str(model / "mmproj.gguf")]
    options = ["--chat_format", "qwen2.5-vl", "--n_ctx", "4096", "--n_threads", "2", "--port", str(port)]
    command = [str(python), "-m", "llama_cpp.server", *files, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(TRIES):
        try:
            with urlopen(f"{url}/models"):
                return process, url
        except (URLError, ConnectionError):
            time.sleep(WAIT_SECONDS)
    process.kill()
    raise SystemExit(f"error: the server does not answer, see {log}")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        python, model = prepared(options.cache.absolute(), directory)
        export(export_plan(REFERENCE, directory / "fp16"))
        process, url = started(python, model, directory / "answers.log")
        try:
            command = [sys.executable, "-c", EXPORTER, "compare", str(directory / "fp16"), "--json", "--quiet"]
            command += ["--endpoint", f"llama={url}", "--data", str(HELDOUT), "--items", str(options.items)]
            done = subprocess.run(
                [*command, "--out", str(directory / "report")], check=True, stdout=subprocess.PIPE, text=True
            )
        finally:
            process.kill()
            process.wait()
    report = json.loads(done.stdout)
    return {key: report["bundles"][0][key] for key in ("answered", "failed", "scores", "answers")}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
