"""L4: the fp16 bundle of the trained reference checkpoint reads as well as transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from qvl_runtime.model import load
from tests.exporter.test_parity import oracle_inputs
from tests.heldout import character_error_rate, items
from tests.oracles.tiny import REFERENCE

PAGES = 100
STATED = 0.04
"""The checkpoint's character error rate on these pages is 3.3 %, see its README."""
LIMIT = 160


@pytest.mark.slow
def test_same_character_error_rate_as_transformers(reference_bundle: Path) -> None:
    questions = list(items("ocr", PAGES))
    truths = [item.answer for item in questions]
    model = load(reference_bundle, threads=1)
    ours = [model.generate(item.messages, max_new_tokens=LIMIT) for item in questions]
    oracle = AutoModelForImageTextToText.from_pretrained(REFERENCE, dtype=torch.float32).eval()
    theirs = []
    for item in questions:
        prompt = model.prompt(item.messages, LIMIT)
        with torch.no_grad():
            ids = oracle.generate(**oracle_inputs(model, prompt), max_new_tokens=LIMIT, do_sample=False)
        theirs.append(model.tokenizer.decode(ids[0, len(prompt.ids) :].tolist(), skip_special_tokens=True))
    assert len(questions) == PAGES
    assert character_error_rate(theirs, truths) <= STATED
    assert abs(character_error_rate(ours, truths) - character_error_rate(theirs, truths)) <= 0.002
