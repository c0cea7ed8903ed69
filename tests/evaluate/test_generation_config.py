"""Comparisons of answers as the checkpoint recommends them, by its bundle and by PyTorch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from qvl_export import ExportPlan, export
from qvl_export.cli.commands import cli
from qvl_export.evaluate.answers.records import Records
from qvl_runtime.model import load


@pytest.fixture(scope="module")
def place(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that recommends a penalty, its bundle, and a set of two questions."""
    place = tmp_path_factory.mktemp("recommended")
    shutil.copytree(checkpoint("qwen2_5_vl", "deep"), place / "checkpoint")
    config = {"eos_token_id": [353, 351], "do_sample": False, "repetition_penalty": 1.7}
    (place / "checkpoint" / "generation_config.json").write_text(json.dumps(config))
    export(ExportPlan(place / "checkpoint", place / "bundle", precision="fp32"))
    (place / "set").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "set" / "page.png")
    lines = [
        {"image": "page.png", "prompt": f"Read {what}.", "task": "ocr", "answers": ["a"]} for what in ("it", "all")
    ]
    (place / "set" / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def compare(place: Path, reference: Path, *options: str) -> Result:
    arguments = ["compare", str(reference), str(place / "bundle"), "--data", str(place / "set"), "--threads", "1"]
    settings = ["--max-new-tokens", "20", "--quiet", "--no-blame"]
    return CliRunner().invoke(cli, [*arguments, *settings, *options], catch_exceptions=False)


def said(work: Path) -> list[list[list[int]]]:
    """The tokens of both models' answers."""
    names = sorted({path.name.split(".")[0] for path in work.glob("*.jsonl") if "-threads" not in path.name})
    found = [[Records(work, name).get(index) for index in range(2)] for name in names]
    return [[record.tokens for record in records if record] for records in found]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hf", "bundle"])
def test_answers_are_as_the_checkpoint_recommends(place: Path, tmp_path: Path, engine: str) -> None:
    reference = place / ("checkpoint" if engine == "hf" else "bundle")
    out, options = tmp_path / "out", ["--out", str(tmp_path / "out"), "--reference", engine, "--json"]
    plain = json.loads(compare(place, reference, *options).stdout)
    (first,) = (out / "work").iterdir()
    recommended = json.loads(compare(place, reference, *options, "--use-generation-config").stdout)
    (second,) = {*(out / "work").iterdir()} - {first}
    assert (plain["use_generation_config"], recommended["use_generation_config"]) == (False, True)
    assert "answered with the checkpoint's generation settings" in (out / "report.md").read_text("utf-8")
    model = load(place / "bundle", threads=1)
    page = {"type": "image", "image": place / "set" / "page.png"}
    questions = [{"type": "text", "text": f"Read {what}."} for what in ("it", "all")]
    for work, penalty in ((first, 1.0), (second, 1.7)):
        expected = []
        for question in questions:
            stream = model.stream([{"role": "user", "content": [page, question]}], 20, repetition_penalty=penalty)
            list(stream)
            expected.append(stream.run.tokens)
        assert said(work) == [expected] * 2
    assert said(first) != said(second)


def test_a_bundle_from_before_is_refused_at_once(place: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(place / "bundle", old)
    manifest = json.loads((old / "bundle.json").read_text())
    del manifest["generation"]
    (old / "bundle.json").write_text(json.dumps(manifest))
    arguments = ["compare", str(place / "bundle"), str(old), "--data", str(place / "set"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(cli, [*arguments, "--use-generation-config", "--quiet"])
    assert "old: does not contain the checkpoint's generation settings (export it again" in str(done.exception)
    assert not (tmp_path / "o" / "index.html").exists()
