"""ONNX Runtime's operators for linear attention against a naive recurrence, and that against transformers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

from tests.oracles.gated_delta import DeltaInputs, causal_convolution, recurrence

MICROSOFT = "com.microsoft"
SIZES = {"0.8B": (4, 4, 128, 128), "grouped": (2, 6, 16, 8), "wide keys": (3, 3, 8, 24)}
"""Key heads, value heads, key size and value size."""
LENGTHS = [1, 2, 63, 64, 65, 200]
"""Below, at and above the chunks of 64 tokens in which kernels may compute."""
MAX_ABS = 2e-5
CHANNELS, KERNEL = 22, 4
Delta = Callable[[DeltaInputs, np.ndarray], tuple[np.ndarray, np.ndarray]]


def delta_inputs(size: str, tokens: int) -> tuple[DeltaInputs, np.ndarray]:
    """Random inputs, whose decays spread from nearly nothing to nearly all, and a state that is not zero."""
    key_heads, heads, key_size, value_size = SIZES[size]
    rng = np.random.default_rng(tokens)
    query, key = rng.standard_normal((2, tokens, key_heads, key_size))
    value = rng.standard_normal((tokens, heads, value_size))
    a, b = rng.standard_normal((2, tokens, heads)) * 3
    a_log, dt_bias = np.log(rng.uniform(0.01, 16, heads)), rng.standard_normal(heads)
    return DeltaInputs(query, key, value, a, b, a_log, dt_bias), rng.standard_normal((heads, key_size, value_size))


def run(node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Runs one operator of float32 inputs in ONNX Runtime."""
    feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in feeds.items()}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    opsets = [helper.make_opsetid("", 27), helper.make_opsetid(MICROSOFT, 1)]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def fused(inputs: DeltaInputs, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GatedDeltaNet: packed queries, keys and values, all activations within, the state with values first."""
    packed = np.concatenate([x.reshape(len(x), -1) for x in inputs[:3]], axis=1)
    names = ["qkv", "", "", "", "a", "b", "state", "a_log", "dt_bias"]
    options = {"gate_activation": "softplus", "beta_activation": "sigmoid", "qk_l2_norm": 1}
    node = helper.make_node("GatedDeltaNet", names, ["y", "last"], domain=MICROSOFT, **options)
    feeds = {"qkv": packed, "state": state.transpose(0, 2, 1)[None]}
    y, last = run(node, feeds | {name: getattr(inputs, name) for name in ("a", "b", "a_log", "dt_bias")})
    return y, last[0].transpose(0, 2, 1)


def unfused(domain: str) -> Delta:
    """LinearAttention of a domain: normalized queries and keys of every value head."""

    def compute(inputs: DeltaInputs, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        heads, (query, key) = len(state), inputs.normalized()
        options: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        names = ["query", "key", "value", "state", "decay", "beta"]
        node = helper.make_node("LinearAttention", names, ["y", "last"], domain=domain, **options)
        rows = {"query": query, "key": key, "value": inputs.value, "decay": inputs.decay, "beta": inputs.beta}
        feeds = {name: value.reshape(1, len(value), -1) for name, value in rows.items()}
        y, last = run(node, feeds | {"state": state[None]})
        return y.reshape(inputs.value.shape), last[0]

    return compute


KERNELS: dict[str, Delta] = {
    "GatedDeltaNet": fused,
    "LinearAttention": unfused(MICROSOFT),
    "LinearAttention of opset 27": unfused(""),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


@kernels
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_recurrence(kernel: Delta, size: str, tokens: int) -> None:
    inputs, state = delta_inputs(size, tokens)
    for ours, naive in zip(kernel(inputs, state), recurrence(inputs, state), strict=True):
        np.testing.assert_allclose(ours, naive, rtol=0, atol=MAX_ABS)


@kernels
@pytest.mark.parametrize("size", SIZES)
def test_chunks_and_single_tokens_continue_the_state(kernel: Delta, size: str) -> None:
    """130 tokens at once, in chunks whose last is ragged, and one by one at the end."""
    inputs, state = delta_inputs(size, 130)
    expected, last = recurrence(inputs, state)
    found, bounds = [], [0, 64, 119, *range(120, 131)]
    for first, end in pairwise(bounds):
        y, state = kernel(inputs.part(first, end), state)
        found.append(y)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=MAX_ABS)
    np.testing.assert_allclose(state, last, rtol=0, atol=MAX_ABS)


@pytest.mark.parametrize("size", SIZES)
def test_the_naive_recurrence_is_that_of_transformers(size: str) -> None:
    inputs, state = delta_inputs(size, 40)
    rows = [torch.from_numpy(x)[None] for x in (*inputs[:3], inputs.decay, inputs.beta)]
    for rule in (qwen.torch_recurrent_gated_delta_rule, qwen.torch_chunk_gated_delta_rule):
        y, last = rule(
            *rows[:3],
            g=rows[3],
            beta=rows[4],
            initial_state=torch.from_numpy(state)[None],
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        for theirs, naive in zip((y[0], last[0]), recurrence(inputs, state), strict=True):
            np.testing.assert_allclose(theirs.float().numpy(), naive, rtol=0, atol=MAX_ABS)


def convolution_inputs(tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(tokens)
    shapes = (tokens, CHANNELS), (CHANNELS, 1, KERNEL), (KERNEL - 1, CHANNELS)
    x, weight, state = (rng.standard_normal(shape) for shape in shapes)
    return x, weight, state


CONVOLUTIONS = {
    "channels last": (MICROSOFT, {"channels_last": 1}),
    "channels first": (MICROSOFT, {}),
    "opset 27": ("", {}),
}


def convolve(kind: str, x: np.ndarray, weight: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CausalConvWithState with SiLU, of x [T, C] after `state` [k − 1, C]."""
    domain, options = CONVOLUTIONS[kind]
    turn: Callable[[np.ndarray], np.ndarray] = (lambda rows: rows) if options else np.transpose
    attributes: dict[str, Any] = {"activation": "silu", **options}
    node = helper.make_node("CausalConvWithState", ["x", "w", "", "s"], ["y", "last"], domain=domain, **attributes)
    y, last = run(node, {"x": turn(x)[None], "w": weight, "s": turn(state)[None]})
    return turn(y[0]), turn(last[0])


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 50])
def test_convolution(kind: str, tokens: int) -> None:
    """Also of fewer tokens than the state holds, and in two parts."""
    x, weight, state = convolution_inputs(tokens)
    expected, last = causal_convolution(x, weight, state)
    for cut in (0, tokens // 2):
        parts, kept = [], state
        for rows in (x[:cut], x[cut:]):
            if len(rows):
                y, kept = convolve(kind, rows, weight, kept)
                parts.append(y)
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=MAX_ABS)
        np.testing.assert_allclose(kept, last, rtol=0, atol=1e-6)


def test_the_naive_convolution_is_that_of_transformers() -> None:
    x, weight, _ = convolution_inputs(9)
    nothing = np.zeros((KERNEL - 1, CHANNELS))
    rows, taps = torch.from_numpy(x.T.copy())[None], torch.from_numpy(weight[:, 0])
    theirs = qwen.causal_conv1d_fn(rows, taps, None, activation="silu")[0].T
    np.testing.assert_allclose(theirs, causal_convolution(x, weight, nothing)[0], rtol=0, atol=1e-6)
