"""Linear attention by the gated delta rule, in place of a layer's attention."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import LinearAttentionSpec, TextSpec
from ..targets import DeltaInputs, RecurrentState, Target
from .layers import AddNorm, FloatLinear, Linear, Weight


class CausalConvolution(nn.Module):
    """SiLU of a depthwise convolution over a token and those before it."""

    def __init__(self, target: Target, spec: LinearAttentionSpec) -> None:
        super().__init__()
        self.target = target
        self.weight = Weight([spec.channels, 1, spec.kernel], ir.DataType.FLOAT)

    def forward(self, op: OpBuilder, x: ir.Value, state: ir.Value) -> tuple[ir.Value, ir.Value]:
        return self.target.causal_convolution(op, x, self.weight, state)


class GatedDeltaNet(nn.Module):
    """Gated DeltaNet (arXiv 2412.06464); the projections of decay and step size are never quantized.

    They are a small part of a layer, and their errors would add up over all tokens.
    """

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__()
        assert spec.linear_attention is not None
        linear, hidden = spec.linear_attention, spec.hidden_size
        self.target, self.spec = target, linear
        values = linear.value_heads * linear.value_dim
        self.in_proj_qkv = Linear(target, hidden, linear.channels, bias=False)
        self.in_proj_z = Linear(target, hidden, values, bias=False)
        self.in_proj_b = FloatLinear(target, hidden, linear.value_heads)
        self.in_proj_a = FloatLinear(target, hidden, linear.value_heads)
        self.conv1d = CausalConvolution(target, linear)
        self.A_log, self.dt_bias = (Weight([linear.value_heads], ir.DataType.FLOAT) for _ in range(2))
        self.norm = AddNorm(target, linear.value_dim, "rms", spec.rms_norm_eps)
        self.out_proj = Linear(target, values, hidden, bias=False)

    def forward(self, op: OpBuilder, x: ir.Value, state: RecurrentState) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        """Returns the output and the new state."""
        qkv, conv_state = self.conv1d(op, self.in_proj_qkv(op, x), state.conv_state)
        inputs = DeltaInputs(qkv, self.in_proj_a(op, x), self.in_proj_b(op, x), self.A_log, self.dt_bias)
        y, recurrent_state = self.target.gated_delta_rule(op, inputs, state.recurrent_state, self.spec)
        gate = self.target.activation(op, self.in_proj_z(op, x), "silu")
        y = self.target.gated(op, gate, self._normalized(op, y))
        return self.out_proj(op, y), (conv_state, recurrent_state)

    def _normalized(self, op: OpBuilder, y: ir.Value) -> ir.Value:
        """RMSNorm of each head; y [1, tokens, heads · value_dim] keeps its shape."""
        heads, _ = self.norm(op, op.Reshape(y, op.Constant(value_ints=[0, 0, -1, self.spec.value_dim])))
        return op.Reshape(heads, op.Constant(value_ints=[0, 0, -1]))
