"""Statistics of a linear's inputs over the tokens of pages."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_export.errors import ExportError
from qvl_export.quant.statistics import Collector


def test_a_hessian_is_the_product_over_all_tokens() -> None:
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    collector = Collector("x", 1, hessian=True)
    collector.add(x)
    found = collector.statistics().hessian
    assert found is not None and np.allclose(found, x.T @ x, atol=1e-4)


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
