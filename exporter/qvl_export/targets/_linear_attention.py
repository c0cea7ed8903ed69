"""Linear attention: ONNX Runtime's fused operators, the standard ones of opset 27, and a Scan of older ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from ..families.spec import LinearAttentionSpec
from . import DeltaInputs, RecurrentShapes
from ._subgraphs import subgraph
from ._w8a8 import MICROSOFT

FLOAT = ir.DataType.FLOAT

EPS = 1e-6
"""Added to the square of the length of queries and keys."""
LAST = np.iinfo(np.int64).max
"""The end of a slice that ends with the axis."""


class FusedLinearAttention:
    """Part of a target: operators of ONNX Runtime that hold all activations, over token-major values."""

    def state_shapes(self, spec: LinearAttentionSpec) -> RecurrentShapes:
        """The inputs before the next token, and a matrix [value_dim, key_dim] per head."""
        return {
            "conv_state": [1, spec.kernel - 1, spec.channels],
            "recurrent_state": [1, spec.value_heads, spec.value_dim, spec.key_dim],
        }

    def causal_convolution(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        y, last = op.CausalConvWithState(
            x, weight, None, state, activation="silu", channels_last=1, _domain=MICROSOFT, _outputs=2
        )
        return y, last

    def gated_delta_rule(
        self, op: OpBuilder, inputs: DeltaInputs, state: ir.Value, spec: LinearAttentionSpec
    ) -> tuple[ir.Value, ir.Value]:
        qkv, a, b = (op.Squeeze(x, op.Constant(value_ints=[0])) for x in (inputs.qkv, inputs.a, inputs.b))
        y, last = op.GatedDeltaNet(
            *(qkv, None, None, None, a, b, state, inputs.a_log, inputs.dt_bias),
            gate_activation="softplus",
            beta_activation="sigmoid",
            qk_l2_norm=1,
            _domain=MICROSOFT,
            _outputs=2,
        )
        return op.Reshape(y, op.Constant(value_ints=[1, -1, spec.value_heads * spec.value_dim])), last


class StandardLinearAttention:
    """Part of a target: the operators of opset 27, and the activations around them."""

    def state_shapes(self, spec: LinearAttentionSpec) -> RecurrentShapes:
        """The inputs before the next token, and a matrix [key_dim, value_dim] per head."""
        return {
            "conv_state": [1, spec.channels, spec.kernel - 1],
            "recurrent_state": [1, spec.value_heads, spec.key_dim, spec.value_dim],
        }

    def causal_convolution(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        rows = op.Transpose(x, perm=[0, 2, 1])
        y, last = op.CausalConvWithState(rows, weight, None, state, activation="silu", _outputs=2)
        return op.Transpose(y, perm=[0, 2, 1]), last

    def gated_delta_rule(
        self, op: OpBuilder, inputs: DeltaInputs, state: ir.Value, spec: LinearAttentionSpec
    ) -> tuple[ir.Value, ir.Value]:
        query, key, value = _queries_keys_values(op, inputs, spec)
        decay = _log_decay(op, inputs)
        heads = {"q_num_heads": spec.value_heads, "kv_num_heads": spec.value_heads}
        y, last = op.LinearAttention(query, key, value, state, decay, op.Sigmoid(inputs.b), **heads, _outputs=2)
        return y, last


class ScannedLinearAttention(StandardLinearAttention):
    """The same in operators of opset 17, with a Scan over the tokens, for engines that lack those of opset 27."""

    def causal_convolution(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        assert weight.shape is not None
        channels, _, kernel = weight.shape.numpy()
        rows = op.Concat(state, op.Transpose(x, perm=[0, 2, 1]), axis=2)
        y = op.Conv(rows, weight, group=channels)
        last = (op.Constant(value_ints=[number]) for number in (1 - kernel, LAST, 2))
        return op.Transpose(op.Mul(y, op.Sigmoid(y)), perm=[0, 2, 1]), op.Slice(rows, *last)

    def gated_delta_rule(
        self, op: OpBuilder, inputs: DeltaInputs, state: ir.Value, spec: LinearAttentionSpec
    ) -> tuple[ir.Value, ir.Value]:
        query, key, value = _queries_keys_values(op, inputs, spec)
        query = op.Mul(query, op.Constant(value_float=spec.key_dim**-0.5))
        per_token = (query, key, value, op.Exp(_log_decay(op, inputs)), op.Sigmoid(inputs.b))
        widths = (spec.key_dim, spec.key_dim, spec.value_dim, 1, 1)
        rows = [
            op.Reshape(x, op.Constant(value_ints=[-1, spec.value_heads, 1, width]))
            for x, width in zip(per_token, widths, strict=True)
        ]
        shapes = {"state": (spec.key_dim, spec.value_dim)} | {
            name: (1, width) for name, width in zip(("query", "key", "value", "decay", "beta"), widths, strict=True)
        }
        inner = [
            ir.Value(name=f"token_{name}", type=ir.TensorType(FLOAT), shape=ir.Shape([spec.value_heads, *shape]))
            for name, shape in shapes.items()
        ]
        body = subgraph(op, "delta_rule", _delta_rule, [FLOAT, FLOAT], inner)
        first = op.Squeeze(state, op.Constant(value_ints=[0]))
        last, y = op.Scan(first, *rows, body=body, num_scan_inputs=len(rows), _outputs=2)
        flat = op.Reshape(y, op.Constant(value_ints=[1, -1, spec.value_heads * spec.value_dim]))
        return flat, op.Unsqueeze(last, op.Constant(value_ints=[0]))


def _delta_rule(
    op: OpBuilder, state: ir.Value, query: ir.Value, key: ir.Value, value: ir.Value, decay: ir.Value, beta: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """One token (arXiv 2412.06464, eq. 10): returns the new state [heads, key_dim, value_dim] and the output.

    `query` and `key` [heads, 1, key_dim], `value` [heads, 1, value_dim], `decay` and `beta` [heads, 1, 1].
    """
    decayed = op.Mul(state, decay)
    error = op.Mul(op.Sub(value, op.MatMul(key, decayed)), beta)
    new = op.Add(decayed, op.Mul(op.Transpose(key, perm=[0, 2, 1]), error))
    return new, op.MatMul(query, new)


def _log_decay(op: OpBuilder, inputs: DeltaInputs) -> ir.Value:
    """The logarithm of what each token leaves of the state, [1, tokens, value_heads]."""
    return op.Neg(op.Mul(op.Exp(inputs.a_log), op.Softplus(op.Add(inputs.a, inputs.dt_bias))))


def _queries_keys_values(
    op: OpBuilder, inputs: DeltaInputs, spec: LinearAttentionSpec
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Normalized queries and keys, and values, of every value head: [1, tokens, value_heads · dim] each."""
    keys, values = spec.key_heads * spec.key_dim, spec.value_heads * spec.value_dim
    query, key, value = op.Split(inputs.qkv, op.Constant(value_ints=[keys, keys, values]), axis=-1, _outputs=3)
    query, key = (_normalized(op, x, spec) for x in (query, key))
    return query, key, value


def _normalized(op: OpBuilder, x: ir.Value, spec: LinearAttentionSpec) -> ir.Value:
    """Normalized queries or keys of every value head: [1, tokens, value_heads · key_dim]."""
    heads = op.Reshape(x, op.Constant(value_ints=[0, 0, spec.key_heads, spec.key_dim]))
    square = op.ReduceSumSquare(heads, op.Constant(value_ints=[-1]), keepdims=1)
    heads = op.Div(heads, op.Sqrt(op.Add(square, op.Constant(value_float=EPS))))
    if spec.key_heads != spec.value_heads:
        owner = np.repeat(np.arange(spec.key_heads), spec.value_heads // spec.key_heads)
        heads = op.Gather(heads, op.Constant(value=ir.tensor(owner)), axis=2)
    return op.Reshape(heads, op.Constant(value_ints=[0, 0, spec.value_heads * spec.key_dim]))
