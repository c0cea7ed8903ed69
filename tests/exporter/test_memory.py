"""An export's memory does not grow with its tensors: the largest is streamed in row chunks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import random_checkpoint

SHAPE = "qwen2-vl-2b"
TABLE_MIB = 151936 * 1536 * 2 / 2**20  # the embedding, 445 MiB in bfloat16
EXPORT = """
import sys
from qvl_export import ExportPlan, export
export(ExportPlan(sys.argv[1], sys.argv[2]))
print(open("/proc/self/status").read())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
def test_peak_memory_is_below_the_largest_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((random_checkpoint.CONFIGS / f"{SHAPE}.json").read_text())
    config["vision_config"]["depth"] = 1
    (tmp_path / f"{SHAPE}.json").write_text(json.dumps(config))
    monkeypatch.setattr(random_checkpoint, "CONFIGS", tmp_path)
    source = random_checkpoint.make(SHAPE, tmp_path / "checkpoint", layers=1)
    command = [sys.executable, "-c", EXPORT, str(source), str(tmp_path / "bundle")]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak is not None
    assert int(peak[1]) / 1024 < TABLE_MIB
