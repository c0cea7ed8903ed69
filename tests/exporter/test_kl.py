"""Log-softmax and KL divergence against PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from qvl_export.common.kl import divergence, log_softmax


def test_they_are_those_of_pytorch() -> None:
    p, q = np.random.default_rng(0).standard_normal((2, 3, 50)).astype(np.float32) * 5
    theirs = [torch.log_softmax(torch.from_numpy(part).double(), -1) for part in (p, q)]
    assert np.allclose(log_softmax(p), theirs[0].numpy(), atol=1e-12)
    expected = torch.nn.functional.kl_div(theirs[1], theirs[0], reduction="none", log_target=True).sum(-1)
    assert np.allclose(divergence(log_softmax(p), log_softmax(q)), expected.numpy())


def test_large_logits_do_not_overflow_and_equal_ones_do_not_diverge() -> None:
    logits = np.array([[1e4, 1e4, -1e4]], np.float32)
    found = log_softmax(logits)
    assert np.allclose(found[0, :2], np.log(0.5)) and divergence(found, found) == 0
