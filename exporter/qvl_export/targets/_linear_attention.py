"""Linear attention: ONNX Runtime's fused operators, and the standard ones of opset 27."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from ..families.spec import LinearAttentionSpec
from . import DeltaInputs, RecurrentShapes
from ._w8a8 import MICROSOFT

EPS = 1e-6
"""Added to the square of the length of queries and keys."""


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
        keys, values = spec.key_heads * spec.key_dim, spec.value_heads * spec.value_dim
        query, key, value = op.Split(inputs.qkv, op.Constant(value_ints=[keys, keys, values]), axis=-1, _outputs=3)
        query, key = (_normalized(op, x, spec) for x in (query, key))
        softplus = op.Softplus(op.Add(inputs.a, inputs.dt_bias))
        decay = op.Neg(op.Mul(op.Exp(inputs.a_log), softplus))
        heads = {"q_num_heads": spec.value_heads, "kv_num_heads": spec.value_heads}
        y, last = op.LinearAttention(query, key, value, state, decay, op.Sigmoid(inputs.b), **heads, _outputs=2)
        return y, last


def _normalized(op: OpBuilder, x: ir.Value, spec: LinearAttentionSpec) -> ir.Value:
    """Normalized queries or keys of every value head: [1, tokens, value_heads · key_dim]."""
    heads = op.Reshape(x, op.Constant(value_ints=[0, 0, spec.key_heads, spec.key_dim]))
    square = op.ReduceSumSquare(heads, op.Constant(value_ints=[-1]), keepdims=1)
    heads = op.Div(heads, op.Sqrt(op.Add(square, op.Constant(value_float=EPS))))
    if spec.key_heads != spec.value_heads:
        owner = np.repeat(np.arange(spec.key_heads), spec.value_heads // spec.key_heads)
        heads = op.Gather(heads, op.Constant(value=ir.tensor(owner)), axis=2)
    return op.Reshape(heads, op.Constant(value_ints=[0, 0, spec.value_heads * spec.key_dim]))
