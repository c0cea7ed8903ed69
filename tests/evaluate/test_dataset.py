"""Evaluation sets: valid ones, refused ones, and reading line by line."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from qvl_export.errors import ExportError
from qvl_export.evaluate.sets.dataset import open_set
from tests.heldout import HELDOUT

GOOD = {"image": "p.png", "prompt": "Read the text.", "task": "ocr", "answers": ["a"], "kind": "letter"}


def write(directory: Path, *lines: str) -> Path:
    Image.new("RGB", (8, 8)).save(directory / "p.png")
    (directory / "labels.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return directory


def test_the_held_out_set() -> None:
    opened = open_set(HELDOUT)
    items = list(opened.items())
    assert opened.count == len(items) == 1196
    assert items[3].index == 3 and items[3].image.is_file() and items[3].label.task == "ocr"


def test_a_subset_is_drawn_with_a_seed_and_keeps_the_mixture() -> None:
    items = list(open_set(HELDOUT, 300).items())
    assert [item.index for item in items] == [item.index for item in open_set(HELDOUT, 300).items()]
    tasks = [item.label.task for item in items]
    assert len(items) == 300 and all(70 < tasks.count(task) < 130 for task in ("ocr", "qa", "grounding"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "poetry"}, "task 'poetry' is not one of ocr"),
        ({"answers": []}, "needs a prompt and at least one answer"),
        ({"answers": [""]}, "an answer is not what task ocr takes"),
        ({"answers": "a"}, "Expected `array`"),
        ({"image": "../p.png"}, "is not inside the set"),
        ({"image": "q.png"}, "there is no image q.png"),
        ({"task": "grounding"}, "an answer is not what task grounding takes"),
        ({"task": "kie"}, "an answer is not what task kie takes (a JSON object with a value): 'a'"),
        ({"task": "table"}, "an answer is not what task table takes (has no <table>): 'a'"),
    ],
)
def test_malformed_labels_are_refused_with_file_and_line(tmp_path: Path, change: dict, said: str) -> None:
    write(tmp_path, json.dumps(GOOD), json.dumps({**GOOD, **change}))
    with pytest.raises(ExportError, match=r"labels\.jsonl:2: ") as error:
        open_set(tmp_path)
    assert said in str(error.value)


def test_labels_as_windows_writes_them(tmp_path: Path) -> None:
    """A byte order mark, and backslashes in paths."""
    (tmp_path / "may").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "may" / "p.png")
    label = json.dumps({**GOOD, "image": "may\\p.png"})
    write(tmp_path, "\ufeff" + label, label)
    assert [item.image for item in open_set(tmp_path).items()] == [tmp_path / "may" / "p.png"] * 2
    write(tmp_path, json.dumps(GOOD), "\ufeff" + label)
    with pytest.raises(ExportError, match=r"labels\.jsonl:2: is malformed"):
        open_set(tmp_path)


@pytest.mark.parametrize("line", ['{"image": "p.png"', "", "[]", "\x00"])
def test_lines_that_are_not_labels(tmp_path: Path, line: str) -> None:
    write(tmp_path, json.dumps(GOOD), line)
    with pytest.raises(ExportError, match=r"labels\.jsonl:2: is malformed"):
        open_set(tmp_path)


def test_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no labels"):
        open_set(tmp_path)
    with pytest.raises(ExportError, match="is empty"):
        open_set(write(tmp_path))


def test_ten_thousand_items_are_not_held(tmp_path: Path) -> None:
    write(tmp_path, *[json.dumps({**GOOD, "answers": ["x" * 1000]})] * 10_000)
    tracemalloc.start()
    assert sum(1 for _ in open_set(tmp_path).items()) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
