"""Models with linear attention are compared with PyTorch and blamed like all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from qvl_export.cli.commands import cli
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from tests.conftest import Bundles
from tests.heldout import HELDOUT
from tests.oracles import tiny

from .test_blame import damage

pytestmark = pytest.mark.slow

PAGE = HELDOUT / "simple_0001.png"
every = pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family not in tiny.ATTENTION])
Checkpoints = Callable[[str, str], Path]


@every
def test_every_stage_agrees_with_the_checkpoint(checkpoint: Checkpoints, bundle: Bundles, family: str) -> None:
    found = blame(
        BlamePlan(checkpoint(family, "small"), bundle(family, "small", "fp32"), (PAGE,), "Read.", hf=True, threads=1)
    )
    names = [stage.name for stage in found.stages]
    blocks, layers = [f"vision.blocks.{i}" for i in range(2)], [f"llm.layers.{i}" for i in range(2)]
    assert names == ["preprocessing", *blocks, "vision.merger", *layers, "logits"]
    assert found.first_drop is None
    assert all(stage.all.sqnr is None or stage.all.sqnr > 60 for stage in found.stages)


@every
def test_a_bundle_agrees_with_its_checkpoint(
    checkpoint: Checkpoints, bundle: Bundles, family: str, tmp_path: Path
) -> None:
    """Answer by answer, and with the same numbers of tokens."""
    models = [str(checkpoint(family, "small")), str(bundle(family, "small", "fp32"))]
    options = ["--data", str(HELDOUT), "--out", str(tmp_path / "out"), "--items", "3", "--max-new-tokens", "8"]
    arguments = ["compare", *models, "--reference", "hf", *options, "--threads", "1", "--json", "--quiet"]
    report = json.loads(CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout)
    (compared,) = report["bundles"]
    assert report["reference"]["failed"] == 0
    assert compared["verdict"]["outcome"] == "identical" and compared["agreement"]["same_answers"] == 3
    assert compared["agreement"]["kl_max"] < 1e-4


def test_a_damaged_linear_of_linear_attention_is_named(bundle: Bundles, tmp_path: Path) -> None:
    whole = bundle("qwen3_5", "deep", "fp16")
    damaged = damage(whole, tmp_path / "damaged", 2, only="linear_attn.out_")
    found = blame(BlamePlan(whole, damaged, (PAGE,), "Read.", into="llm.layers.2", threads=1))
    assert (found.largest, found.first_linear) == ("llm.layers.2", "llm.layers.2/linear_attn.out_proj")
    linears = [stage.name.removeprefix("llm.layers.2/") for stage in found.linears]
    projections = [f"linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")]
    assert sorted(linears) == sorted([*projections, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"])
