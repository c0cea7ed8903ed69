"""`serve --ray` on a cluster of two machines (two nodes on this one): the same application, from several replicas."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from qvl_runtime import __main__ as cli

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 5}


@pytest.mark.slow
def test_replicas_answer_as_one_server(ray_cluster: str, bundle: Callable[..., Path]) -> None:
    pytest.importorskip(
        "ray.serve", reason="ray[serve] is not installed: serve --ray is not tested", exc_type=ImportError
    )
    tiny = bundle("qwen2_5_vl", "deep", "fp32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "qvl_runtime", "serve", str(tiny), "--ray", ray_cluster, "--replicas", "2"]
    command += ["--port", str(port), "--model-name", "tiny", "--threads", "1", "--api-key", "secret"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        try:
            assert process.stderr is not None
            lines = []
            while "serving tiny on the Ray cluster" not in (line := process.stderr.readline()):
                assert line, lines
                lines.append(line)
            url = re.findall(r"http://\S+/v1", line)[0]
            with httpx.Client(headers={"Authorization": "Bearer secret"}, timeout=120) as client:
                assert client.get(f"{url}/models").json()["data"][0]["id"] == "tiny"
                with ThreadPoolExecutor(4) as threads:
                    found = [*threads.map(lambda _: client.post(f"{url}/chat/completions", json=BODY), range(8))]
                assert {reply.status_code for reply in found} == {200}
                assert len({reply.json()["choices"][0]["message"]["content"] for reply in found}) == 1
                with client.stream("POST", f"{url}/chat/completions", json={**BODY, "stream": True}) as streamed:
                    assert [*streamed.iter_lines()][-2] == "data: [DONE]"
            assert httpx.get(f"{url}/models").status_code == 401
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    assert process.returncode == 0
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/models", headers={"Authorization": "Bearer secret"}).raise_for_status()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--replicas", "2"], "--replicas needs --ray"),
        (["--replicas", "3-2"], "'3-2' is not a number such as 2 or a range such as 1-4"),
        (["--ray", "127.0.0.1:1"], "127.0.0.1:1: no Ray cluster answers"),
    ],
)
def test_what_cannot_be_deployed_is_one_line(
    bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    tiny = bundle("qwen2_5_vl", "deep", "fp32")
    capsys.readouterr()  # what the export printed
    assert cli.main(["serve", str(tiny), *options]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
