"""PyTorch itself as the reference: its bundle agrees with it, answer by answer and stage by stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qvl_export.cli.commands import cli
from qvl_export.evaluate.answers.transformers_reference import HfAnswerer
from qvl_runtime.errors import PromptError
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.runtime.templates import QWEN2_5_TOOLS, QWEN2_5_VL

pytestmark = pytest.mark.slow

PAGE = str(HELDOUT / "simple_0003.png")
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image", "image": PAGE}, {"type": "text", "text": "Read the text."}]}
]


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


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.json": QWEN2_5_VL, "tokenizer_config.json": QWEN2_5_TOOLS},  # as Qwen2.5-VL is published
        {"chat_template.jinja": QWEN2_5_TOOLS, "tokenizer_config.json": QWEN2_5_VL},
    ],
    ids=["chat_template.json", "text-only jinja"],
)
def test_the_reference_takes_the_template_that_the_exporter_takes(files: dict[str, str], tmp_path: Path) -> None:
    copied(tmp_path)
    for name, template in files.items():
        known = json.loads((tmp_path / name).read_text()) if (tmp_path / name).is_file() else {}
        written = template if name.endswith("jinja") else json.dumps({**known, "chat_template": template})
        (tmp_path / name).write_text(written)
    inputs = HfAnswerer(str(tmp_path), 1).inputs(MESSAGES)
    assert int(inputs["mm_token_type_ids"].sum()) == inputs["image_grid_thw"].prod().item() // 4 > 0


def test_template_args_of_the_reference(tmp_path: Path) -> None:
    copied(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(QWEN2_5_VL)
    numbered = HfAnswerer(str(tmp_path), 1, {"add_vision_id": True}).inputs(MESSAGES)["input_ids"]
    assert numbered.shape[1] > HfAnswerer(str(tmp_path), 1).inputs(MESSAGES)["input_ids"].shape[1]


def test_a_template_that_refuses_is_one_line(tmp_path: Path) -> None:
    copied(tmp_path)
    refuse = "{% if messages[0].content[1] %}{{ raise_exception('no text') }}{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(refuse + QWEN2_5_VL)
    with pytest.raises(PromptError, match="transformers cannot render the chat template: no text"):
        HfAnswerer(str(tmp_path), 1).inputs(MESSAGES)


def copied(here: Path) -> None:
    """The reference checkpoint without its template."""
    for path in Path(REFERENCE).iterdir():
        if path.name != "chat_template.jinja":
            shutil.copyfile(path, here / path.name)
