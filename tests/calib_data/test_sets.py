"""Sets on disk: the same bytes for the same seed, refusals, and the two committed sets as their manifests say."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib_data.generator import fonts
from calib_data.generator.__main__ import main
from calib_data.generator.dataset import Plan, make_page, write_set
from calib_data.generator.encode import encode
from calib_data.generator.kinds import kinds
from calib_data.generator.prompts import TASKS

from .helpers import SETS, need_fonts

LIMITS = {"heldout": 2_000_000, "samples": 2_500_000}


def labels(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text("utf-8").splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """In another process too, in which hashes of strings differ."""
    need_fonts("simple")
    arguments = ["--kind", "simple", "--count", "4", "--seed", "s", "--degrade", "0.5"]
    assert main([str(tmp_path / "a"), *arguments]) == 0
    command = [sys.executable, "-m", "calib_data.generator", str(tmp_path / "b"), *arguments]
    subprocess.run(command, check=True, cwd=SETS.parent)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".png", ".jpg", ".json", ".jsonl"}


def test_larger_count_keeps_earlier_pages(tmp_path: Path) -> None:
    need_fonts("simple")
    for count in (2, 3):
        write_set(Plan(("simple",), count, "s"), tmp_path / str(count))
    small, large = contents(tmp_path / "2"), contents(tmp_path / "3")
    assert all(large[name] == data for name, data in small.items() if name.endswith(".png"))
    assert large["labels.jsonl"].startswith(small["labels.jsonl"])


def test_one_question_a_page(tmp_path: Path) -> None:
    need_fonts("simple")
    write_set(Plan(("simple",), 5, "s", questions="one"), tmp_path / "set")
    assert [label["image"] for label in labels(tmp_path / "set")] == [f"simple_{i:04d}.png" for i in range(5)]


def test_existing_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_fonts("simple")
    assert main([str(tmp_path), "--kind", "simple"]) == 1
    assert "exists" in capsys.readouterr().err


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_fonts("simple")

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("calib_data.generator.dataset.encode", fail)
    with pytest.raises(RuntimeError):
        write_set(Plan(("simple",), 1, "s"), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_missing_fonts_are_named_before_the_first_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fonts, "missing", lambda keys: ["ukai"])
    assert main([str(tmp_path / "set"), "--kind", "simple"]) == 1
    assert "apt-get install fonts-arphic-ukai" in capsys.readouterr().err


@pytest.mark.parametrize("colors", [2, 16, 200, 5000])
def test_encoding_keeps_pixels(colors: int) -> None:
    source = np.random.default_rng(0)
    palette = source.integers(0, 256, (colors, 3), dtype=np.uint8)
    pixels = palette[source.integers(0, colors, (60, 90))]
    extension, data = encode(Image.fromarray(pixels))
    assert extension == "png" and np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), pixels)


@pytest.mark.parametrize("name", LIMITS)
def test_committed_files_match_their_manifest(name: str) -> None:
    folder = SETS / name
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    digests.pop("manifest.json")
    assert digests == manifest(folder)["sha256"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < LIMITS[name]


@pytest.mark.parametrize("name", LIMITS)
def test_committed_labels_are_valid(name: str) -> None:
    lines = labels(SETS / name)
    for line in lines:
        assert list(line) == ["image", "prompt", "task", "answers", "kind"]
        assert line["task"] in TASKS and line["kind"] in kinds() and line["prompt"]
        assert line["answers"] and all(isinstance(answer, str) and answer for answer in line["answers"])
    images = {path.name for path in (SETS / name).iterdir()} - {"labels.jsonl", "manifest.json"}
    assert {line["image"] for line in lines} == images
    assert len({(line["image"], line["prompt"]) for line in lines}) == len(lines)


@pytest.mark.parametrize("name", LIMITS)
def test_committed_boxes_lie_inside_their_images(name: str) -> None:
    for line in labels(SETS / name):
        if line["task"] == "grounding":
            left, top, right, bottom = json.loads(line["answers"][0])["bbox_2d"]
            with Image.open(SETS / name / line["image"]) as image:
                gray = np.asarray(image.convert("L"), dtype=np.int32)[top:bottom, left:right]
                assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
            assert gray.max() - gray.min() > 25


def test_no_heldout_page_equals_another() -> None:
    folder = SETS / "heldout"
    pictures = {path.name: hashlib.sha256(Image.open(path).convert("RGB").tobytes()) for path in folder.glob("*.png")}
    assert len(pictures) == 400 and len({digest.hexdigest() for digest in pictures.values()}) == 400
    texts = [line["answers"][0] for line in labels(folder) if line["task"] == "ocr"]
    assert len(set(texts)) == 400


def test_heldout_asks_three_questions_of_pages_with_fields() -> None:
    tasks: dict[str, list[str]] = {}
    for line in labels(SETS / "heldout"):
        tasks.setdefault(line["image"], []).append(line["task"])
    assert len(tasks) == 400
    assert all(asked in (["ocr"], ["ocr", "qa", "grounding"]) for asked in tasks.values())


def test_samples_hold_every_other_kind() -> None:
    assert {line["kind"] for line in labels(SETS / "samples")} == set(kinds()) - {"simple"}


@pytest.mark.parametrize("name", LIMITS)
def test_generator_still_makes_the_committed_pages(name: str) -> None:
    """Their texts; pixels may differ with another FreeType."""
    saved = manifest(SETS / name)["arguments"]
    saved = {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
    plan = Plan(**saved)
    texts = {line["image"].split(".")[0]: line["answers"][0] for line in labels(SETS / name) if line["task"] == "ocr"}
    for stem in Random(0).sample(sorted(texts), 10):
        kind, index = stem.rsplit("_", 1)
        need_fonts(kind)
        assert make_page(plan, kind, int(index)).text == texts[stem]
