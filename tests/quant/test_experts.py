"""GPTQ for experts: Hessians of the tokens that are routed to each, against loops, and their benefit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from qvl_export.graph.experts import ExpertWeight
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.calibration.expert_tokens import Routed
from qvl_export.quant.calibration.experts import LEAST_TOKENS, gptq_experts, hessians
from qvl_export.quant.gptq.solver import round_to_nearest
from qvl_export.targets import lower

EXPERTS, CHOSEN, HIDDEN, INNER, FORMAT = 5, 2, 96, 64, QuantFormat(4, 32)
ROWS = lower("cpu", "fp32", 0).gate_up_rows(INNER)
Floats = np.ndarray[Any, np.dtype[np.float32]]


class Layer:
    """Random experts with correlated tokens; the last expert is hardly chosen."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.gate_up = rng.standard_normal((EXPERTS, 2 * INNER, HIDDEN)).astype(np.float32) / HIDDEN**0.5
        self.down = rng.standard_normal((EXPERTS, HIDDEN, INNER)).astype(np.float32) / INNER**0.5
        self.router = rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32) / HIDDEN**0.5
        self.mixing = (rng.standard_normal((HIDDEN, 24)) @ rng.standard_normal((24, HIDDEN))).astype(np.float32) / 10
        self.rng = rng

    def tokens(self, count: int) -> tuple[Floats, Floats]:
        x = self.rng.standard_normal((count, HIDDEN)).astype(np.float32)
        x = x @ self.mixing + 0.3 * x
        scores = x @ self.router.T
        scores[:, -1] -= 12
        return x, scores

    def quantized(self, routed: Routed) -> tuple[QTensor, QTensor, int]:
        weights = (
            ExpertWeight([EXPERTS, 2 * INNER, HIDDEN], ir.DataType.FLOAT, ROWS),
            ExpertWeight([EXPERTS, HIDDEN, INNER], ir.DataType.FLOAT),
        )
        sources: Any = [
            SimpleNamespace(chunks=lambda part=part: iter(part.reshape(EXPERTS, -1)))
            for part in (self.gate_up[:, ROWS], self.down)
        ]
        return gptq_experts(weights, tuple(sources), [routed], FORMAT)


def shares(scores: Floats) -> Floats:
    """The share of every expert per token, 0 if it is not chosen."""
    found = np.zeros_like(scores)
    for token, row in enumerate(scores):
        chosen = np.argsort(-row)[:CHOSEN]
        exponents = np.exp(row[chosen] - row.max())
        found[token, chosen] = exponents / exponents.sum()
    return found


def mixture(x: Floats, scores: Floats, gate_up: Floats, down: Floats) -> Floats:
    """Rows of gate and then up, as they are stored."""
    found, share = np.zeros_like(x), shares(scores)
    for expert in range(EXPERTS):
        found += share[:, expert, None] * (activated(x, gate_up[expert]) @ down[expert].T)
    return found


def activated(x: Floats, gate_up: Floats) -> Floats:
    gate, up = x @ gate_up[:INNER].T, x @ gate_up[INNER:].T
    return gate / (1 + np.exp(-gate)) * up


def routed(layer: Layer, directory: Path, *pages: int) -> tuple[Routed, Floats, Floats]:
    found = Routed(directory / "routed", CHOSEN)
    seen = [layer.tokens(count) for count in pages]
    with found.file.open("wb") as file:
        for x, scores in seen:
            found.add(file, x[None], scores)
    return found, np.concatenate([x for x, _ in seen]), np.concatenate([scores for _, scores in seen])


def test_hessians_are_those_of_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_export.quant.calibration.expert_tokens.TOKENS_AT_ONCE", 50)
    layer, found = Layer(), Routed(tmp_path / "routed", CHOSEN)
    seen = [layer.tokens(count) for count in (130, 70)]
    with found.file.open("wb") as file:
        for x, scores in seen:
            found.add(file, x[None], scores)
    x, scores = (np.concatenate(part) for part in zip(*seen, strict=True))
    for expert in range(EXPERTS):
        share = shares(scores)[:, expert, None]
        mine = [part * share for part in (x, activated(x, layer.gate_up[expert]))]
        *both, count = hessians([found], expert, layer.gate_up[expert][ROWS], ROWS)
        assert count == np.count_nonzero(share)
        for hessian, tokens in zip(both, mine, strict=True):
            np.testing.assert_allclose(hessian, tokens.T @ tokens, rtol=1e-3, atol=1e-3)


def test_gptq_loses_less_than_rounding_on_other_tokens(tmp_path: Path) -> None:
    layer = Layer()
    seen, _, _ = routed(layer, tmp_path, 1500, 1500)
    gate_up, down, _ = layer.quantized(seen)
    x, scores = layer.tokens(1000)
    exact = mixture(x, scores, layer.gate_up, layer.down)
    back = np.argsort(ROWS)

    def error(first: QTensor, second: QTensor) -> float:
        matrices = first.dequantize().reshape(layer.gate_up.shape)[:, back], second.dequantize()
        return float(np.square(mixture(x, scores, matrices[0], matrices[1].reshape(layer.down.shape)) - exact).sum())

    nearest = round_to_nearest(layer.down.reshape(-1, INNER), FORMAT)
    ordered = round_to_nearest(layer.gate_up[:, ROWS].reshape(-1, HIDDEN), FORMAT)
    assert error(gate_up, down) < 0.6 * error(ordered, nearest)


def test_an_expert_with_few_tokens_is_rounded(tmp_path: Path) -> None:
    """Both matrices of the last one, which saw hardly any."""
    layer = Layer()
    seen, _, scores = routed(layer, tmp_path, 400)
    least = np.count_nonzero(shares(scores), axis=0)
    assert least[-1] < LEAST_TOKENS * INNER and least[:-1].min() > LEAST_TOKENS * HIDDEN
    gate_up, down, rounded = layer.quantized(seen)
    assert rounded == 2
    for tensor, part in ((gate_up, layer.gate_up[:, ROWS]), (down, layer.down)):
        nearest = round_to_nearest(part[-1], FORMAT)
        assert np.array_equal(tensor.codes.reshape(part.shape)[-1], nearest.codes)
        assert not np.array_equal(tensor.codes.reshape(part.shape)[0], round_to_nearest(part[0], FORMAT).codes)
