"""Replaces `evaluate.answers.worker` if the comparison itself is measured: its whole loop, without a model.

A prompt contains its own answer after a colon; the model called `other` gets one in seven wrong.
"""

from __future__ import annotations

import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qvl_export.evaluate.answers.records import Record
from qvl_export.evaluate.answers.worker import AnswerJob, run
from qvl_export.jobs.worker import run_job

VOCABULARY = 300
PIXELS = (56, 28)


class Stub:
    """See `answerers.Answerer`."""

    def __init__(self, job: AnswerJob) -> None:
        self._spoils = Path(job.model).name == "other"

    def answer(self, messages: list[dict[str, Any]], limit: int | None) -> Record:
        prompt = messages[0]["content"][1]["text"]
        text = prompt.partition(": ")[2]
        if self._spoils and zlib.crc32(prompt.encode()) % 7 == 0:
            text = text[1:]
        seconds = {"first_token_seconds": 0.01, "decode_seconds": 0.01}
        return Record(answer=text, tokens=list(text.encode()), size=PIXELS, resized=PIXELS, **seconds)

    def logits(self, messages: list[dict[str, Any]], tokens: list[int]) -> np.ndarray:
        logits = np.random.default_rng(len(tokens)).standard_normal((len(tokens), VOCABULARY), np.float32)
        logits[np.arange(len(tokens)), tokens] += 8 - self._spoils
        return logits

    def clear_cache(self) -> None: ...

    def prefill(self, messages: list[dict[str, Any]], limit: int | None) -> None: ...


if __name__ == "__main__":
    sys.exit(run_job(AnswerJob, partial(run, open_model=Stub)))
