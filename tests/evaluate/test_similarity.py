"""Similarity of two arrays against the textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_export.evaluate.trace.similarity import Similarity, similarity, undo_smoothing


def test_similarity_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((9, 16)).astype(np.float32)
    other = y + 0.1 * rng.standard_normal(y.shape).astype(np.float32)
    found = similarity(y, other)
    assert found.sqnr == pytest.approx(20 * np.log10(np.linalg.norm(y) / np.linalg.norm(y - other)), abs=1e-2)
    cosine = y.ravel() @ other.ravel() / np.linalg.norm(y) / np.linalg.norm(other)
    assert found.cosine == pytest.approx(cosine, abs=1e-6)
    assert similarity(y, y) == Similarity(1.0, None)


def test_a_scale_of_a_channel_is_undone_but_not_that_of_a_linear() -> None:
    draw = np.random.default_rng(0)
    y = draw.standard_normal((50, 8)).astype(np.float32)
    scales = np.exp(draw.standard_normal(8)).astype(np.float32)
    divided = y / (scales / np.exp(np.log(scales).mean()))
    assert np.allclose(undo_smoothing(y, divided), y, atol=1e-5)
    assert np.allclose(undo_smoothing(y, 2 * divided), 2 * y, atol=1e-5)
