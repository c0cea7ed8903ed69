"""What each token counts in the Hessians of a stage."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_export.errors import ExportError
from qvl_export.quant.statistics import Collector


def hessian(x: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    collector = Collector("x", 1, hessian=True)
    collector.add(x, counts)
    found = collector.statistics().hessian
    assert found is not None
    return found


def test_tokens_count_what_they_are_told_to() -> None:
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    counts = np.where(np.arange(40) < 15, 4.0, 1.0).astype(np.float32)
    assert np.allclose(hessian(x, None), x.T @ x, atol=1e-4)
    assert np.allclose(hessian(x, counts), 4 * x[:15].T @ x[:15] + x[15:].T @ x[15:], rtol=1e-4, atol=1e-3)


def test_some_tokens_of_every_page_are_kept_however_many_there_are() -> None:
    """Not the first alone, which all pages share."""
    collector = Collector("x", 5000, hessian=False)
    for page in range(3):
        collector.add(np.arange(100, dtype=np.float32)[:, None] + 100 * page)
    kept = collector.statistics().tokens[:, 0]
    assert len(kept) == 24 and {int(value) // 100 for value in kept} == {0, 1, 2}
    assert sorted(kept[:8]) == [0, 14, 28, 42, 56, 70, 84, 99]


def test_activations_that_are_not_finite_are_named() -> None:
    x = np.ones((3, 4), np.float32)
    x[1, 2] = np.inf
    with pytest.raises(ExportError, match=r"the activations before model\.layers\.0\.mlp\.up_proj are not finite"):
        Collector("model.layers.0.mlp.up_proj", 1, hessian=False).add(x)
