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
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from qvl_runtime import __main__ as cli
from qvl_runtime.serve.options import ServeOptions
from qvl_runtime.serve.ray_serve import Replica, _application

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 5}
QUEUE = 4
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


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
    command += ["--queue", str(QUEUE)]
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
                burst = {**BODY, "max_tokens": 200}
                with ThreadPoolExecutor(24) as threads:
                    found = [*threads.map(lambda _: client.post(f"{url}/chat/completions", json=burst), range(24))]
                assert {reply.status_code for reply in found} == {200, 429}, "the application's own refusal is reached"
                assert all("retry-after" in reply.headers for reply in found if reply.status_code == 429)
            assert httpx.get(f"{url}/models").status_code == 401
            second = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            assert second.returncode == 2 and "another `serve --ray` runs on this cluster" in second.stderr
            assert httpx.get(f"{url}/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    assert process.returncode == 0
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/models", headers={"Authorization": "Bearer secret"}).raise_for_status()


class Recorded:
    """Ray Serve as far as deployments are described."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def ingress(self, build: object) -> Any:
        return lambda: build

    def deployment(self, _: object, **options: Any) -> Any:
        self.options = options
        return SimpleNamespace(bind=lambda: None)


@pytest.mark.parametrize("waiting", [0, 7])
def test_every_queue_of_a_deployment_has_an_end(waiting: int) -> None:
    serve, options = Recorded(), ServeOptions(model_name="tiny", parallel=2, waiting=waiting)
    _application(serve, Replica(Path("bundle"), options), (1, 1))
    assert serve.options["max_ongoing_requests"] > options.parallel + waiting, "429 is the application's"
    assert 0 < serve.options["max_queued_requests"] < 1000, "-1 has no end"


def test_options_of_a_server_do_not_show_its_key() -> None:
    """They are in what Ray keeps and logs."""
    options = ServeOptions(model_name="tiny", api_key="sesame")
    assert "sesame" not in repr(Replica(Path("bundle"), options))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--replicas", "2"], "--replicas needs --ray"),
        (["--replicas", "3-2"], "'3-2' is not a number such as 2 or a range such as 1-4"),
        pytest.param(["--ray", "127.0.0.1:1"], "127.0.0.1:1: no Ray cluster answers", marks=NEEDS_RAY),
    ],
)
def test_what_cannot_be_deployed_is_one_line(
    bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    tiny = bundle("qwen2_5_vl", "deep", "fp32")
    capsys.readouterr()  # what the export printed
    assert cli.main(["serve", str(tiny), *options]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
