"""Agreement along an answer against full distributions in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qvl_export.evaluate.answers.token_agreement import (
    StoredDistributions,
    compare_distributions,
    compress_distributions,
)

TOKENS = 70


def pair(vocabulary: int, noise: float) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Logits of two models along the first one's most likely tokens."""
    rng = np.random.default_rng(0)
    one = (rng.standard_normal((TOKENS, vocabulary)) * 4).astype(np.float32)
    two = one + (rng.standard_normal(one.shape) * noise).astype(np.float32)
    return one, two, one.argmax(-1).tolist()


def full(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """KL at each token over the whole vocabulary."""
    p, q = (torch.log_softmax(torch.from_numpy(logits).double(), -1) for logits in (one, two))
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).numpy()


def test_small_vocabularies_are_exact(tmp_path: Path) -> None:
    one, two, tokens = pair(200, 0.3)
    compress_distributions(one, tokens).save(tmp_path / "0.npz")
    found = compare_distributions(StoredDistributions.load(tmp_path / "0.npz"), two)
    np.testing.assert_allclose(found.kl, full(one, two), rtol=2e-3, atol=1e-6)
    assert found.same_top == (one.argmax(-1) == two.argmax(-1)).sum() < TOKENS
    assert found.first_divergence == np.flatnonzero(two.argmax(-1) != tokens)[0]
    p, q = (torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy() for logits in (one, two))
    places = np.arange(TOKENS), tokens
    assert found.log_likelihood_reference == pytest.approx(p[places].sum(), rel=1e-5)
    assert found.log_likelihood == pytest.approx(q[places].sum(), rel=1e-9)


def test_the_bucket_of_all_others_hides_little() -> None:
    one, two, tokens = pair(20_000, 0.3)
    true, found = full(one, two), np.array(compare_distributions(compress_distributions(one, tokens), two).kl)
    assert (found <= true * 1.001 + 1e-9).all()
    assert found.mean() > 0.8 * true.mean()  # flatter distributions than any reader's: 60 % of the mass is kept


def test_logits_that_are_not_finite_agree_with_nothing() -> None:
    """They would be written as null, and no later run could read them."""
    one, two, tokens = pair(200, 0.3)
    two[3, 5] = np.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        compare_distributions(compress_distributions(one, tokens), two)
    with pytest.raises(ArithmeticError, match="not finite"):
        compress_distributions(two, tokens)


def test_a_model_agrees_with_itself() -> None:
    one, _, tokens = pair(1000, 0)
    found = compare_distributions(compress_distributions(one, tokens), one)
    assert max(found.kl) < 1e-7 and found.same_top == TOKENS and found.first_divergence is None
    assert found.log_likelihood == pytest.approx(found.log_likelihood_reference, rel=1e-6)
