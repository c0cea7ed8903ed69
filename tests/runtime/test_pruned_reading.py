"""The trained checkpoints read pages of which blank blocks were left out; `tests.bench.prune` reads all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from calib_data.generator.real import DocumentMissing
from qvl_runtime.model import Model, load
from tests.bench import prune_pages
from tests.bench.prune import Outcome, Way, drawn, read
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
    return [read(model, questions, Way.of(rule), partial(drawn, margin=margin)) for rule in rules]


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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule", "least"), [("clean", "exact", 0.55), ("scans", "scan", 0.45)])
def test_lists_of_pages_are_half_blank(
    name: str, rule: str, least: float, reader_bundle: Callable[[str, str], Path]
) -> None:
    """The pages whose times are in docs/benchmarks.md; what is left out depends on them alone."""
    try:
        pages = prune_pages.pages(name)
    except DocumentMissing as error:
        pytest.skip(str(error))
    model, seen, whole = load(reader_bundle("qwen2_5_vl", "fp16"), threads=1), 0, 0
    for page in pages.values():
        part = {"type": "image", "image": page, "prune": rule}
        placed = model.prompt([{"role": "user", "content": [part, {"type": "text", "text": "Read."}]}]).placed[0]
        seen, whole = seen + placed.span.tokens, whole + placed.span.cells
    assert 1 - seen / whole > least
