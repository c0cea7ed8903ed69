"""Fixtures of the tests of evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from qvl_export.evaluate.sets.dataset import EvalSet, open_set
from tests.evaluate.answer_patterns import ITEMS, TRUTH


@pytest.fixture
def chosen(tmp_path: Path) -> EvalSet:
    """A set of equal items about one page."""
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    label = {"image": "p.png", "prompt": "Read.", "task": "ocr", "answers": [TRUTH], "kind": "letter"}
    (tmp_path / "labels.jsonl").write_text((json.dumps(label) + "\n") * ITEMS)
    return open_set(tmp_path)
