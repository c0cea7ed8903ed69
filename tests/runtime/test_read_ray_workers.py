"""Reading on a Ray cluster of two machines (two nodes on this one) gives what one process gives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_runtime import __main__ as cli


@pytest.fixture
def arguments(bundle: Callable[..., Path], tmp_path: Path) -> list[str]:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(6):
        Image.new("RGB", (84, 56), (40 * number, 9, 200)).save(scans / f"{number}.png")
    (scans / "broken.png").write_bytes(b"x")
    tiny = bundle("qwen2_5_vl", "deep", "fp32")
    return ["read", str(tiny), str(scans), "--prompt", "Read.", "--max-new-tokens", "5", "--quiet"]


def answers(path: Path) -> list[tuple[Any, ...]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(each["file"], each["page"], each.get("answer"), each.get("error")) for each in found]


@pytest.mark.slow
def test_a_cluster_answers_as_one_process(ray_cluster: str, arguments: list[str], tmp_path: Path) -> None:
    alone, spread = tmp_path / "alone.jsonl", tmp_path / "spread.jsonl"
    assert cli.main([*arguments, "--out", str(alone), "--threads", "1"]) == 1
    assert cli.main([*arguments, "--out", str(spread), "--ray", ray_cluster]) == 1
    assert answers(spread) == answers(alone) and len(answers(alone)) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--workers", "3"], "has room for 2 workers of 1 cores, not 3 (give --workers 2"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_what_workers_refuse_is_one_line(
    ray_cluster: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    problem: str,
) -> None:
    out = tmp_path / "a.jsonl"
    assert cli.main([*arguments, "--out", str(out), "--ray", ray_cluster, *options]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and not out.exists()


def test_a_cluster_that_is_not_there_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    assert cli.main([*arguments, "--out", str(tmp_path / "a.jsonl"), "--ray", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1: no Ray cluster answers" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main([*arguments, "--out", str(tmp_path / "a.jsonl"), "--ray", "auto"]) == 2
    assert "which is the extra qvl-runtime[ray]" in capsys.readouterr().err
