"""PyTorch itself as the reference: its bundle agrees with it, answer by answer and stage by stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from qvl_export.cli import cli
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE


@pytest.mark.slow
def test_a_bundle_agrees_with_the_checkpoint_it_is_of(reference_bundle: Path, tmp_path: Path) -> None:
    arguments = ["compare", str(REFERENCE), str(reference_bundle), "--reference", "hf", "--data", str(HELDOUT)]
    options = ["--out", str(tmp_path / "out"), "--items", "6", "--threads", "1", "--json", "--quiet"]
    done = CliRunner().invoke(cli, [*arguments, *options, "--max-new-tokens", "60"], catch_exceptions=False)
    report = json.loads(done.stdout)
    (bundle,) = report["bundles"]
    assert report["reference"]["failed"] == 0 and report["noise"] is None
    assert bundle["verdict"]["outcome"] == "identical" and bundle["agreement"]["same_answers"] == 6
    assert bundle["agreement"]["kl_max"] < 1e-4 and bundle["agreement"]["same_top"] == 1
    assert report["reference"]["speed"]["first_token_ms"] > 0


@pytest.mark.slow
def test_every_stage_agrees_with_the_checkpoint(reference_bundle: Path) -> None:
    arguments = ["blame", str(REFERENCE), str(reference_bundle), "--reference", "hf", "--json", "--threads", "1"]
    page = str(HELDOUT / "simple_0003.png")
    done = CliRunner().invoke(cli, [*arguments, "--image", page, "Read the text."], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["first_drop"] is None and len(found["stages"]) == 11
    assert all(stage["all"]["sqnr"] is None or stage["all"]["sqnr"] > 60 for stage in found["stages"])
