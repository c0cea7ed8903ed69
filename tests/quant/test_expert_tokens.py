"""The tokens of every expert, and its share of each, against a loop over tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_export.quant.calibration.expert_tokens import Routed

EXPERTS, CHOSEN, COLUMNS = 6, 2, 8


@pytest.mark.parametrize("at_once", [1, 4, 4096])
def test_an_expert_gets_the_tokens_that_choose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("qvl_export.quant.calibration.expert_tokens.TOKENS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    pages = [(rng.standard_normal((n, COLUMNS)), rng.standard_normal((n, EXPERTS)) * 3) for n in (7, 5)]
    routed = Routed(tmp_path / "routed", CHOSEN)
    with routed.file.open("wb") as file:
        for x, scores in pages:
            routed.add(file, x[None].astype(np.float32), scores)
    for expert in range(EXPERTS):
        expected = []
        for token, row in ((t, s) for x, scores in pages for t, s in zip(x.astype(np.float32), scores, strict=True)):
            chosen = np.argsort(-row)[:CHOSEN]
            if expert in chosen:
                expected.append((token, np.exp(row[expert]) / np.exp(row[chosen]).sum()))
        parts = list(routed.tokens(expert, COLUMNS))
        assert all(len(tokens) <= at_once and shares.shape == (len(tokens), 1) for tokens, shares in parts)
        tokens = np.concatenate([tokens for tokens, _ in parts] or [np.zeros((0, COLUMNS))])
        shares = np.concatenate([shares for _, shares in parts] or [np.zeros((0, 1))])
        assert np.array_equal(tokens, np.reshape([token for token, _ in expected], (-1, COLUMNS)))
        assert np.allclose(shares[:, 0], [share for _, share in expected])
