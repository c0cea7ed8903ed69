"""The process that answers, with a model that records its calls."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from qvl_export.evaluate.answers import worker as answering
from qvl_export.evaluate.answers.records import Record, Records, record_writer

LABELS = [
    {"image": image, "prompt": f"{image} {number}?", "task": "qa", "answers": ["x"]}
    for image in ("a.png", "b.png")
    for number in range(3)
]


def test_a_resumed_run_prefills_the_answered_items_of_a_page(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    class Recorder:
        def answer(self, messages: Any, limit: int | None) -> Record:
            asked.append(("answer", messages[0]["content"][1]["text"]))
            return Record(answer="x", tokens=[1])

        def logits(self, messages: Any, tokens: list[int]) -> Any:
            raise ValueError

        def clear_cache(self) -> None:
            asked.append(("clear_cache", ""))

        def prefill(self, messages: Any, limit: int | None) -> None:
            asked.append(("prefill", messages[0]["content"][1]["text"]))

    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in LABELS))
    first = [label["prompt"] for label in LABELS[:3]]
    job = answering.AnswerJob(
        model="", engine="", data=str(tmp_path), total=len(LABELS), digest="", chosen=None,
        records=str(tmp_path), name="a", scratch=str(tmp_path / "none"), reference=False, threads=1,
        max_new_tokens=3,
    )  # fmt: skip
    with record_writer(tmp_path, "a", 0) as append:
        append(Record(item=0, answer="x"))
    answering.run(job, io.StringIO(), lambda _: Recorder())
    assert asked[: len(first) + 1] == [
        ("clear_cache", ""),
        ("prefill", first[0]),
        *(("answer", text) for text in first[1:]),
    ]
    records = Records(tmp_path, "a")
    fresh = [item for item in range(1, len(LABELS)) if (record := records.get(item)) and record.fresh]
    assert fresh == [3], "the first item of the second page"
