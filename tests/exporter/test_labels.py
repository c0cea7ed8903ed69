"""`labels.jsonl` has one reader: evaluation and calibration sets with the same fault have the same error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qvl_export.errors import ExportError
from qvl_export.evaluate.sets.dataset import open_set
from qvl_export.quant.calibration_data.selection import select

GOOD = {"image": "p.png", "prompt": "Read the text.", "task": "ocr", "answers": ["a"]}


def calibrate(directory: Path) -> object:
    return list(select(directory).questions(lambda _: None))


def write(directory: Path, *lines: str) -> Path:
    Image.new("RGB", (8, 8)).save(directory / "p.png")
    (directory / "labels.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return directory


@pytest.mark.parametrize("read", [open_set, calibrate])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"labels\.jsonl:2: is malformed: .* \(each line is a JSON object with image, prompt, task and answers\)"),
        (json.dumps({"image": "p.png"}), r"labels\.jsonl:2: is malformed: .*prompt.* \(each line"),
        (json.dumps({**GOOD, "image": "../p.png"}), r"labels\.jsonl:2: image '../p\.png' is not inside .*\(give paths"),
        (json.dumps({**GOOD, "image": "q.png"}), r"labels\.jsonl:2: there is no image q\.png \(add it, or remove the"),
    ],
)
def test_a_faulty_line(read: Callable[[Path], object], tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        read(write(tmp_path, json.dumps(GOOD), line))


@pytest.mark.parametrize("read", [open_set, calibrate])
def test_an_empty_file(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"labels\.jsonl: is empty \(give it one line per question\)"):
        read(write(tmp_path))


def test_only_evaluation_needs_a_task(tmp_path: Path) -> None:
    untasked = {name: value for name, value in GOOD.items() if name != "task"}
    write(tmp_path, json.dumps(untasked))
    (question,) = select(tmp_path).questions(lambda _: None)
    assert question.task == "ocr"
    with pytest.raises(ExportError, match=r"labels\.jsonl:1: needs a task: ocr, "):
        open_set(tmp_path)
