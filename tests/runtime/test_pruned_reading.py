"""The trained checkpoints read pages of which blank blocks were left out; `tests.bench.prune` reads all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_runtime.model import Model, load
from tests.bench.prune import Outcome, Way, read
from tests.heldout import items

PAGES = 40
"""Pages of the table's 400."""
WORSE = 0.02
"""Most that CER may rise on so few pages: over 400 it rises by 0.002 for one checkpoint, and falls for the other."""
MARGIN = 64
"""Pixels of white paper around a page of about 300 × 200: what neither checkpoint has seen in training."""


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def reader(request: pytest.FixtureRequest, reader_bundle: Callable[[str, str], Path]) -> Model:
    return load(reader_bundle(request.param, "fp16"), threads=1)


def outcomes(model: Model, margin: int, *rules: str) -> list[Outcome]:
    questions = list(items("ocr"))[:PAGES]
    return [read(model, questions, Way.of(rule), margin) for rule in rules]


@pytest.mark.slow
def test_pages_as_they_were_trained_on(reader: Model) -> None:
    """Little of them is blank, and leaving it out costs little."""
    off, exact, scan = outcomes(reader, 0, "off", "exact", "scan")
    for rule in (exact, scan):
        assert 0.03 < rule.pruned / (rule.tokens + rule.pruned) < 0.12
        assert rule.tokens + rule.pruned == off.tokens
        assert rule.rate < off.rate + WORSE


@pytest.mark.slow
def test_pages_with_wide_margins(reader: Model) -> None:
    """Half is blank, which these checkpoints have not seen: without it they read better."""
    off, scan = outcomes(reader, MARGIN, "off", "scan")
    assert scan.pruned > 0.5 * off.tokens
    assert scan.rate < off.rate
