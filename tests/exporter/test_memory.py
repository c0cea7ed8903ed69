"""An export's memory does not grow with its tensors: the largest is streamed in row chunks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import random_checkpoint

SHAPE = "qwen2-vl-2b"
TABLE_MIB = 151936 * 1536 * 2 / 2**20  # the embedding, 445 MiB in bfloat16
EXPORT = """
import json, sys
from qvl_export import export
from tests.plans import export_plan
export(export_plan(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])))
print(open("/proc/self/status").read())
"""
EXPERTS = {"hidden_size": 256, "moe_intermediate_size": 512, "num_experts": 64}
"""A layer of them takes 96 MiB in float32."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's"),
]


def describe(shape: str, directory: Path, **text: Any) -> None:
    """The configuration of a published shape, with one vision block and what `text` says of the language model."""
    config = json.loads((random_checkpoint.CONFIGS / f"{shape}.json").read_text())
    config["vision_config"]["depth"] = 1
    if "hidden_size" in text:
        config["vision_config"]["out_hidden_size"] = text["hidden_size"]
    config.get("text_config", config).update(text)
    (directory / f"{shape}.json").write_text(json.dumps(config))


def peak_mib(source: Path, out: Path, **plan: Any) -> float:
    """Peak resident memory of an export in a process of its own."""
    command = [sys.executable, "-c", EXPORT, str(source), str(out), json.dumps(plan)]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak is not None
    return int(peak[1]) / 1024


def test_peak_memory_is_below_the_largest_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(SHAPE, tmp_path)
    monkeypatch.setattr(random_checkpoint, "CONFIGS", tmp_path)
    source = random_checkpoint.make(SHAPE, tmp_path / "checkpoint", layers=1)
    assert peak_mib(source, tmp_path / "bundle") < TABLE_MIB


@pytest.mark.parametrize("shape", ["qwen3-vl-30b-a3b", "qwen3.5-35b-a3b"])
def test_quantizing_experts_holds_one_layer(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three more layers are 288 MiB of experts in float32; peaks of equal exports were up to 57 MiB apart."""
    describe(shape, tmp_path, **EXPERTS)
    monkeypatch.setattr(random_checkpoint, "CONFIGS", tmp_path)
    plan = {"precision": "int4", "samples": 1, "max_pixels": 131072}
    peaks = []
    for layers in (1, 4):
        source = random_checkpoint.make(shape, tmp_path / f"{layers}", layers, one_expert=True)
        peaks.append(peak_mib(source, tmp_path / f"bundle-{layers}", **plan))
    assert peaks[1] < peaks[0] + 90, peaks
