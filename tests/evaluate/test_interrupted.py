"""A comparison that is interrupted and resumed gives the same figures, digit for digit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from qvl_export.cli.commands import cli
from qvl_export.common.scratch import scratch
from qvl_export.evaluate.answers.records import Records
from tests.evaluate.test_blame import damage
from tests.evaluate.test_pool import eventually
from tests.heldout import first_pages

pytestmark = pytest.mark.slow

PAGES = 3
TIMED = ("first_token_seconds", "decode_seconds")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out pages, about each of which several questions are asked one after another."""
    return first_pages(tmp_path_factory.mktemp("set"), PAGES)


@pytest.fixture(scope="module")
def command(reference_bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    other = damage(reference_bundle, tmp_path_factory.mktemp("other") / "other", 2)
    options = ["--threads", "1", "--max-new-tokens", "12", "--no-blame", "--json", "--quiet"]
    return ["compare", str(reference_bundle), str(other), "--data", str(data), *options, "--out"]


def lines(out: Path, name: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob(f"work/*/{name}"))


def stopped(command: Sequence[str], out: Path, name: str, count: int, how: signal.Signals) -> tuple[int, str]:
    """Exit code and errors of a run that gets a signal once `count` answers are in files of a name."""
    code = "import sys; from qvl_export.cli.main import main; sys.argv[0] = 'qvl-export'; main()"
    arguments = [sys.executable, "-c", code, *command, str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert eventually(lambda: lines(out, name) >= count, 120)
        process.send_signal(how)
        _, errors = process.communicate()
    return process.returncode, errors.strip()


def answers(out: Path) -> dict[str, list[Any]]:
    """All records by model, without their times."""
    (work,) = (out / "work").iterdir()
    found = {}
    for name in sorted({path.name.split(".")[0] for path in work.glob("*.jsonl")}):
        records = Records(work, name)
        every = [records.get(item) for item in range(len(records))]
        found[name] = [msgspec.structs.replace(record, **dict.fromkeys(TIMED, 0.0)) for record in every if record]
    return found


@pytest.mark.slow
def test_an_interrupted_run_gives_the_figures_of_an_uninterrupted_one(command: list[str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted = CliRunner().invoke(cli, [*command, str(whole)], catch_exceptions=False)
    kept = f"{parts} contains the answers so far; run the command again to resume"
    first = stopped(command, parts, "reference-*.jsonl", 2, signal.SIGINT)
    assert first == (130, f"interrupted; {kept}")
    others = "[0-9a-f]*[0-9a-f].0.jsonl"
    second = stopped(command, parts, others, lines(whole, others) // 2 + 1, signal.SIGTERM)
    assert second == (143, f"terminated; {kept}")
    assert sorted(os.listdir(tmp_path)) == ["parts", "whole"] and sorted(os.listdir(parts)) == ["work"]
    resumed = CliRunner().invoke(cli, [*command, str(parts)], catch_exceptions=False)
    assert answers(parts) == answers(whole)
    found = [json.loads(done.stdout)["bundles"][0] for done in (uninterrupted, resumed)]
    assert found[0]["agreement"] == found[1]["agreement"] and found[0]["scores"] == found[1]["scores"]
    assert not list(parts.glob("work/*/scratch")) and not list(parts.rglob(".*"))


@pytest.mark.slow
def test_a_bundle_added_later_has_the_same_results(command: list[str], tmp_path: Path) -> None:
    """The reference's distributions have been removed by then, and are computed again."""
    at_once, later = tmp_path / "at-once", tmp_path / "later"
    CliRunner().invoke(cli, [*command, str(at_once)], catch_exceptions=False)
    itself = [*command[:2], command[1], *command[3:]]
    CliRunner().invoke(cli, [*itself, str(later)], catch_exceptions=False)
    CliRunner().invoke(cli, [*command, str(later)], catch_exceptions=False)
    found = answers(later)
    assert found == found | answers(at_once)


@pytest.mark.slow
def test_agreement_is_with_the_given_reference(command: list[str], tmp_path: Path) -> None:
    """In one directory, the same bundle against one reference and then against another."""
    CliRunner().invoke(cli, [*command, str(tmp_path)], catch_exceptions=False)
    itself = [command[0], command[2], *command[2:]]
    again = CliRunner().invoke(cli, [*itself, str(tmp_path)], catch_exceptions=False)
    assert json.loads(again.stdout)["bundles"][0]["agreement"]["kl_mean"] < 1e-5


def test_a_second_comparison_in_the_same_directory_is_refused(command: list[str], tmp_path: Path) -> None:
    from qvl_export.evaluate.report.output_dir import locked_output

    with locked_output(tmp_path / "out"):
        done = CliRunner().invoke(cli, [*command, str(tmp_path / "out")])
    assert str(done.exception).startswith(f"{tmp_path / 'out'}: is in use by another comparison (wait until")
    assert not list(tmp_path.iterdir())


def test_scratch_of_a_killed_blame_is_cleared_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".qvl-export.0123456789ab.scratch"
    left.mkdir()
    (left / "llm.layers.0.npy").touch()
    with scratch(tmp_path):
        assert not left.exists()
    assert not list(tmp_path.iterdir())
