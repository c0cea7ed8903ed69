"""The memory of a comparison does not grow with its items."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluate.stub_answers import PIXELS

ROOT = Path(__file__).parents[2]
GROWTH_MB = 6
"""Allowed for 9,000 more items; 3.3 were measured in the comparison (places of records, scores, KL by token), 0.6 in a
process that answers."""
COMPARE = """
import sys
from pathlib import Path
from qvl_export.evaluate.answers import answer_runner; from qvl_export.evaluate import compare
from qvl_export.evaluate.report.render import write

answer_runner.WORKER_MODULE = "tests.evaluate.stub_answers"
reference, other, data, out = map(Path, sys.argv[1:])
write(compare.compare(compare.ComparePlan(reference, (other,), data, out, threads=1, blame=False)), out)
print(open("/proc/self/status").read())
"""
ANSWERS = {
    "ocr": "Invoice {0}, 12.50",
    "qa": "No. {0}",
    "kie": '{{"number": "{0}"}}',
    "grounding": '{{"bbox_2d": [1, 2, 30, {0}]}}',
}


def make_set(directory: Path, items: int) -> Path:
    """Questions of every task in turn, about one small page."""
    directory.mkdir()
    Image.new("RGB", PIXELS, "white").save(directory / "page.png")
    with (directory / "labels.jsonl").open("w") as file:
        for index in range(items):
            task, pattern = list(ANSWERS.items())[index % len(ANSWERS)]
            answer = pattern.format(10 + index % 17)
            label = {"image": "page.png", "prompt": f"{index}: {answer}", "task": task, "answers": [answer]}
            file.write(json.dumps(label | {"kind": f"kind {index % 5}"}) + "\n")
    return directory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
def test_ten_thousand_items_take_the_memory_of_a_thousand(bundle: Callable[..., Path], tmp_path: Path) -> None:
    reference = bundle("qwen2_vl", "small", "fp32")
    other = shutil.copytree(bundle("qwen2_vl", "small", "fp16"), tmp_path / "other")
    peaks: dict[int, dict[str, float]] = {}
    for items in (1_000, 10_000):
        data, out = make_set(tmp_path / f"set{items}", items), tmp_path / f"out{items}"
        command = [sys.executable, "-c", COMPARE, *map(str, (reference, other, data, out))]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
        report = json.loads((out / "report.json").read_text())
        models = (report["reference"], report["bundles"][0])
        assert found and [model["answered"] for model in models] == [items, items]
        assert report["bundles"][0]["verdict"]["outcome"] == "loss"
        peaks[items] = {"compare": int(found[1]) / 1000} | {m["title"]: m["speed"]["peak_memory_mb"] for m in models}
    grown = {name: peaks[10_000][name] - peaks[1_000][name] for name in peaks[1_000]}
    assert all(growth < GROWTH_MB for growth in grown.values()), peaks
