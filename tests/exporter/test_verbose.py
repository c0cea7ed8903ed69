"""`--verbose`: debug messages on standard error while a command runs, and silence otherwise."""

from __future__ import annotations

import base64
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click import Command, Group

from qvl_export.cli.commands import cli, run
from qvl_runtime.__main__ import main
from tests.oracles.tiny import REFERENCE

HELDOUT = Path(__file__).parents[2] / "calib_data" / "heldout"
PAGE = HELDOUT / "simple_0000.png"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def small(bundle: Callable[..., Path]) -> Path:
    return bundle("qwen2_5_vl", "small", "fp32")


def commands(group: Group) -> list[Command]:
    """Every command and group of a group, and those of its groups."""
    found = []
    for command in group.commands.values():
        found += [command, *(commands(command) if isinstance(command, Group) else [])]
    return found


def test_every_command_has_the_option_once() -> None:
    for command in [cli, *commands(cli)]:
        assert sum("--verbose" in parameter.opts for parameter in command.params) == 1, command.name


def test_a_shared_option_has_one_text() -> None:
    names = "--verbose", "--template-arg", "--threads", "--ray", "--revision", "--image", "--use-generation-config"
    for name in names:
        shared = [item for command in commands(cli) for item in command.params if name in item.opts]
        assert len(shared) > 1 and len({str(getattr(item, "help", None)) for item in shared}) == 1, name


def test_it_is_silent_by_default(small: Path, tmp_path: Path, capsys: Capture) -> None:
    run(cli, ["export", str(REFERENCE), str(tmp_path / "out"), "--precision", "fp32", "--quiet"])
    assert main(["run", str(small), "Hi", "--max-new-tokens", "1", "--json"]) == 0
    assert capsys.readouterr().err == ""
    for name in ("qvl_export", "qvl_runtime"):
        logger = logging.getLogger(name)
        assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
        assert logger.level == logging.NOTSET


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "after it"])
def test_the_steps_of_an_answer_are_logged(before: bool, small: Path, capsys: Capture) -> None:
    words = ["run", str(small), "Secret question", "--image", str(PAGE), "--max-new-tokens", "2", "--json"]
    assert main(["--verbose", *words] if before else [*words, "--verbose"]) == 0
    out, errors = capsys.readouterr()
    assert json.loads(out)["counts"]["generated"] == 2, "the output is JSON alone"
    for event in ("bundle read: ", "session opened: ", "CPUExecutionProvider", "prompt: ", "answer: 2 tokens"):
        assert event in errors
    assert all(" s qvl_runtime: " in line for line in errors.splitlines())
    assert "Secret" not in errors
    assert main(words) == 0
    assert capsys.readouterr().err == "", "it ends with the command"


def test_a_message_never_continues_the_answer(small: Path) -> None:
    sampling = ["--max-new-tokens", "4", "--temperature", "9", "--seed", "3"]
    words = [sys.executable, "-m", "qvl_runtime", "run", str(small), "Hi", *sampling]
    answer = subprocess.run(words, capture_output=True, timeout=60, check=True).stdout
    assert answer.splitlines()[-1] != b"", "a last line of text"
    mixed = subprocess.run([*words, "--verbose"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60).stdout
    lines = mixed.splitlines(keepends=True)
    messages = [line for line in lines if b" qvl_runtime: " in line]
    assert messages[-1].split(b"qvl_runtime: ")[1].startswith(b"answer: 4 tokens")
    assert [line for line in messages if not re.match(rb"\d+\.\d{3} s qvl_runtime: ", line)] == []
    assert b"".join(line for line in lines if line not in messages and not line.startswith(b"note: ")) == answer


def test_twice_is_once(small: Path, capsys: Capture) -> None:
    assert main(["--verbose", "inspect", str(small), "--verbose"]) == 0
    assert capsys.readouterr().err.count("bundle read: ") == 1


def test_the_steps_of_a_calibrated_export_are_logged(tmp_path: Path, capsys: Capture) -> None:
    words = ["export", str(REFERENCE), str(tmp_path / "out"), "--precision", "int8", "--calib", str(PAGE), "--quiet"]
    run(cli, [*words, "--max-pixels", "40000", "--verbose"])
    errors = capsys.readouterr().err
    events = "checkpoint read", "work directory", "stage calibrated", "graph written", "output in place"
    assert [event for event in events if f" s qvl_export: {event}: " not in errors] == []
    assert "qvl_runtime: session opened: " in errors


def test_jobs_are_logged_with_their_processes(small: Path, tmp_path: Path, capsys: Capture) -> None:
    label = {"image": "page.png", "prompt": "Read.", "task": "ocr", "answers": ["x"]}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "page.png").write_bytes(PAGE.read_bytes())
    (tmp_path / "set" / "labels.jsonl").write_text(json.dumps(label))
    words = ["compare", str(small), str(small), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    run(cli, ["--verbose", *words, "--max-new-tokens", "2", "--threads", "1", "--no-blame", "--json", "--quiet"])
    out, errors = capsys.readouterr()
    assert json.loads(out)
    started, ended = (errors.count(f"qvl_export: job {what}: ") for what in ("started", "ended"))
    assert started == ended > 0 and "exit code 0" in errors


def test_data_urls_are_cut(small: Path, capsys: Capture) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PAGE.read_bytes()).decode()}"
    assert main(["--verbose", "run", str(small), "Hi", "--image", url, "--max-new-tokens", "1"]) == 0
    assert "base64" not in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_messages_need_no_reader(closed: str, small: Path) -> None:
    words = ["sh", "-c", f'"$0" -m qvl_runtime inspect "$1" --json --verbose {closed}', sys.executable, str(small)]
    done: Any = subprocess.run(words, capture_output=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)
