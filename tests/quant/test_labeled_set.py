"""The questions of a set with labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qvl_export.common.labels import Label
from qvl_export.quant.calibration_data.labeled_set import LabeledSet


def test_chosen_lines_are_questions_about_their_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    labels = (
        Label(image="a.png", prompt="Read.", answers=["x"]),
        Label(image="b.png", prompt="What?", answers=[], task="qa"),
        Label(image="a.png", prompt="Sum?", answers=["1", "2"], task="qa", kind="bill"),
    )
    source = LabeledSet("mine", tmp_path, labels)
    first, last = source.questions([0, 2], lambda _: None, 150)
    assert len(source) == 3 and first.origin is last.origin and first.image == tmp_path / "a.png"
    assert (first.origin.name, first.origin.sha256) == ("mine/a.png", hashlib.sha256(b"a.png").hexdigest())
    assert (first.prompt, first.answers, first.task) == ("Read.", ("x",), "ocr")
    assert (last.prompt, last.answers, last.task, last.kind) == ("Sum?", ("1", "2"), "qa", "bill")
