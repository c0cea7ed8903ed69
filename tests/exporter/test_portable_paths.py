"""File names in untrusted input mean the same on every platform."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qvl_export.common.labels import Label, read_labels
from qvl_export.common.portable_paths import is_inside, is_plain
from qvl_export.errors import ExportError
from qvl_export.evaluate.sets.dataset import check


@pytest.mark.parametrize(
    "name", ["C:\\a.png", "C:a.png", "\\a.png", "\\\\host\\share\\a.png", "..\\a.png", "a\\..\\..\\b", "/a", ""]
)
def test_a_path_that_leaves_a_set_does_so_on_every_platform(name: str, tmp_path: Path) -> None:
    assert not is_inside(name)
    assert "is not inside the set" in check(Label(image=name, prompt="Read.", task="ocr", answers=["x"]))
    (tmp_path / "labels.jsonl").write_text(json.dumps({"image": name, "prompt": "Read.", "answers": []}))
    with pytest.raises(ExportError, match="is not inside the set"):
        list(read_labels(tmp_path))


def test_paths_below_a_set_are_inside() -> None:
    assert all(map(is_inside, ("a.png", "may/b.png", "./a.png", "a..b/c...png", "Größe/日本.png", "may\\b.png")))
    assert is_plain("model-00001-of-00002.safetensors") and is_plain("model.safetensors-00001-of-00002.safetensors")
