"""Targets: one module per target, found by name, whose `lower(precision)` returns the ops its engine runs best.

`graph/` describes networks in terms of these ops, independently of engines.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, cast

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.manifest import CACHE_FORMS, CacheForm

from ..engines import BuildOptions, Finisher
from ..errors import ExportError
from ..families.spec import LinearAttentionSpec
from ..qtensor import QTensor, QuantFormat

Inputs = tuple[tuple[str, ir.DataType, list[int | str]], ...]
"""Inputs of a graph: name, element type and axes of each."""
DEFERRED_SCALE = "scaled_later_by"
"""Node metadata: the output still has to be multiplied by the named per-token scales."""
RecurrentShapes = dict[str, list[int]]
"""Shapes by the names of `RecurrentState`."""
PAST: Final = "past"
"""Name of the axis of the cache's capacity."""
TOTAL = "total"
"""Name of the axis of past and new tokens, where a graph appends new ones to the cache."""
WEIGHT_TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
SWISH_SLOPE = {"silu": 1.0, "quick_gelu": 1.702}
"""Slope of x · sigmoid(slope · x) per activation."""
SMALLEST = 1e-9
"""Least divisor of a token, so that a token of zeros is not divided by zero."""


class GraphForm(NamedTuple):
    """The form of standard ONNX graphs; None leaves a choice to the target."""

    opset: int | None = None
    cache: str | None = None
    """One of `manifest.CACHE_FORMS`."""
    tensorrt: str | None = None
    """The release of TensorRT that is to read them, such as "10.3"."""


DEFAULT_FORM = GraphForm()
"""Everything as the target chooses it."""
_CHOICES = {
    "opset": ("--opset", "OPSETS", "portable"),
    "cache": ("--cache", "OPSETS", "portable"),
    "tensorrt": ("--tensorrt-version or --jetpack", "RELEASES", "tensorrt"),
}
"""For each choice of a form its option, what a target's module that reads it has, and a target that does."""


class Cache(NamedTuple):
    """The KV cache of one layer: `key` and `value` [1, kv_heads, capacity, head_dim]; `state` holds the target's
    `cache_inputs`, which say how far it is filled."""

    key: ir.Value
    value: ir.Value
    state: Mapping[str, ir.Value]


class RecurrentState(NamedTuple):
    """The state of one layer of linear attention, in the target's `state_shapes`."""

    conv_state: ir.Value
    recurrent_state: ir.Value


class DeltaInputs(NamedTuple):
    """Inputs of the gated delta rule: `qkv` [1, tokens, channels] after the convolution, and projections `a` and `b`
    [1, tokens, value_heads] of decay and step size; `a_log` and `dt_bias` [value_heads]."""

    qkv: ir.Value
    a: ir.Value
    b: ir.Value
    a_log: ir.Value
    dt_bias: ir.Value


class PackedWeight(NamedTuple):
    """A quantized weight [rows, columns] in its stored form: the values of `Target.packed_form` by name."""

    parts: Mapping[str, ir.Value]
    format: QuantFormat
    rows: int
    columns: int


class WindowInputs(NamedTuple):
    """Attention windows in the host's layout (`qvl_runtime.positions.Windows`), of `size` patches each."""

    gather: ir.Value
    lengths: ir.Value
    scatter: ir.Value
    size: int


class Target(Protocol):
    """The ops of one engine. Activations are [batch, tokens, features]; norms take the pending `delta` of a residual
    stream and return (normalized, x + delta)."""

    @property
    def opsets(self) -> tuple[tuple[str, int], ...]:
        """Operator domains and their versions."""

    @property
    def ir_version(self) -> int: ...

    @property
    def weight_type(self) -> ir.DataType:
        """Stored type of float weights of linears and the embedding."""

    @property
    def static_activations(self) -> bool:
        """Whether W8A8 rounds a linear's inputs with one scale from calibration, else per token."""

    @property
    def per_tensor_activations(self) -> bool:
        """Whether W8A8 can round all tokens of an image with one scale computed at run time."""

    @property
    def byte_products(self) -> bool:
        """Whether W8A8 multiplies unsigned by signed bytes on a CPU, where sums of two products may saturate."""

    @property
    def int8_attention(self) -> bool | None:
        """Whether attention in the vision tower has int8 products where its linears have; None if it never can."""

    @property
    def quantized_tables(self) -> bool:
        """Whether embedding and head can be quantized."""

    @property
    def has_int4(self) -> bool:
        """Whether weights can have 4 bits; else 8-bit ones take their place."""

    @property
    def largest_file(self) -> int | None:
        """Most bytes of a file of weights, or None."""

    @property
    def cache_form(self) -> CacheForm:
        """One of `manifest.CACHE_FORMS`."""

    @property
    def cache_type(self) -> ir.DataType:
        """Type of keys and values in the cache."""

    @property
    def static_cache(self) -> bool:
        """Whether the cache has the maximum length from the start; else the host chooses its capacity."""

    @property
    def cache_inputs(self) -> Inputs:
        """Inputs of the `llm` graph that say how far its cache is filled."""

    def linear(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        """x · weightᵀ + bias, weight [out, in]; `exceeds_fp16` if x or the product may exceed float16's range."""

    def linear_parts(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, count: int
    ) -> Sequence[ir.Value]:
        """The outputs of `linear` in `count` equal parts."""

    def packed_form(self, outputs: int, inputs: int, format: QuantFormat) -> dict[str, tuple[list[int], ir.DataType]]:
        """Shape and element type of each stored part of a quantized weight [outputs, inputs]."""

    def pack(self, tensor: QTensor) -> dict[str, np.ndarray]:
        """Returns the values of the parts of `packed_form`, without loss."""

    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        """x · dequantized weightᵀ + bias."""

    def quantized_linear_parts(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, count: int
    ) -> Sequence[ir.Value]:
        """The outputs of `quantized_linear` in `count` equal parts."""

    def quantized_embedding(self, op: OpBuilder, ids: ir.Value, table: PackedWeight) -> ir.Value:
        """Rows of a quantized table in float32; the table has whole blocks and no permutation."""

    def embedding(self, op: OpBuilder, ids: ir.Value, weight: ir.Value) -> ir.Value:
        """Rows of `weight` [vocab, hidden]."""

    def rms_norm(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """RMSNorm of x + delta."""

    def layer_norm(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, weight: ir.Value, bias: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """LayerNorm of x + delta."""

    def activation(self, op: OpBuilder, x: ir.Value, kind: str) -> ir.Value:
        """`quick_gelu`, `gelu` (erf), `gelu_tanh` or `silu`."""

    def gate_up_rows(self, inner: int) -> np.ndarray:
        """The order of an expert's rows in `experts`; gate has rows 0 … inner − 1, up inner … 2 · inner − 1."""

    def experts(
        self, op: OpBuilder, x: ir.Value, scores: ir.Value, gate_up: ir.Value, down: ir.Value, chosen: int
    ) -> ir.Value:
        """Σ over the `chosen` best experts of softmax(their scores) · down(silu(gate(x)) · up(x)).

        `scores` [tokens, experts], `gate_up` [experts, 2 · inner, hidden], `down` [experts, hidden, inner].
        """

    def packed_experts_form(
        self, experts: int, outputs: int, inputs: int, format: QuantFormat
    ) -> dict[str, tuple[list[int], ir.DataType]]:
        """Shape and type of the parts of all experts' matrices; bytes are those of one [experts · outputs, inputs]."""

    def quantized_experts(
        self,
        op: OpBuilder,
        x: ir.Value,
        scores: ir.Value,
        gate_up: Mapping[str, ir.Value],
        down: Mapping[str, ir.Value],
        format: QuantFormat,
        chosen: int,
    ) -> ir.Value:
        """`experts` with quantized matrices."""

    def gated(self, op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        """gate · up."""

    def rotary(
        self, op: OpBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, num_heads: int, rotary_dim: int = 0
    ) -> ir.Value:
        """Half-split rotary embedding; cos and sin [batch, tokens, rotary_dim / 2].

        `rotary_dim` is the number of rotated channels of each head, the first ones (0: all).
        """

    def vision_attention(
        self,
        op: OpBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        num_heads: int,
        windows: WindowInputs | None,
        integer: bool = False,
    ) -> ir.Value:
        """Attention of all patches of a frame, or within its windows; `integer` if q, k and v are integer products."""

    def causal_attention(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, cache: Cache, num_heads: int, kv_heads: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Causal attention over the cache; returns (output, present key, present value)."""

    def for_int4(self) -> Target:
        """The same target for graphs with 4-bit weights, which may need a newer operator set."""

    def for_linear_attention(self) -> Target:
        """The same target for graphs with linear attention, which may need newer operator sets."""

    def state_shapes(self, spec: LinearAttentionSpec) -> RecurrentShapes:
        """Shapes of a layer's state; all of it is float32."""

    def causal_convolution(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, state: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """SiLU of the causal depthwise convolution of x [1, tokens, channels] with `weight` [channels, 1, kernel].

        Returns it and the new state.
        """

    def gated_delta_rule(
        self, op: OpBuilder, inputs: DeltaInputs, state: ir.Value, spec: LinearAttentionSpec
    ) -> tuple[ir.Value, ir.Value]:
        """Linear attention by the gated delta rule, with normalized queries and keys.

        Returns the output [1, tokens, value_heads · value_dim] and the new state.
        """


def largest_of_tokens(op: OpBuilder, x: ir.Value) -> ir.Value:
    """The largest magnitude per token, [batch, tokens, 1], at least SMALLEST."""
    high, low = reduce(op, "ReduceMax", x), reduce(op, "ReduceMin", x)  # takes a third of the time of Abs
    return op.Max(high, op.Neg(low), op.Constant(value_float=SMALLEST))


def reduce(op: OpBuilder, kind: str, x: ir.Value) -> ir.Value:
    """`kind` (such as ReduceMax) over the last axis, which stays with size 1; axes are an attribute before opset 18."""
    axes = {} if op.version is None or op.version >= 18 else {"axes": [-1]}
    inputs = () if axes else (op.Constant(value_ints=[-1]),)
    y: ir.Value = getattr(op, kind)(x, *inputs, **axes, keepdims=1)
    return y


def split(op: OpBuilder, x: ir.Value, axis: int, count: int) -> Sequence[ir.Value]:
    """Splits x into equal parts along an axis; their count is an attribute from opset 18 on."""
    number = {"num_outputs": count} if op.version is None or op.version >= 18 else {}
    parts: Sequence[ir.Value] = op.Split(x, axis=axis, **number, _outputs=count)
    return parts


def ordered(op: OpBuilder, x: ir.Value, weight: PackedWeight) -> ir.Value:
    """x with its columns in the order of the weight's columns."""
    return op.Gather(x, weight.parts["permutation"], axis=-1) if weight.format.permuted else x


def available() -> list[str]:
    """Names of the supported targets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def builds_engines(name: str) -> bool:
    """Whether bundles of target `name` hold engines that are built from their graphs, see `engines`."""
    return hasattr(_module(name), "finisher")


def finisher(name: str, options: BuildOptions) -> Finisher | None:
    """Returns the function that builds engines from a target's written graphs; None if the graphs run directly.

    Raises ExportError for options that the target does not support, in general or on this machine.
    """
    if builds_engines(name):
        found: Finisher = _module(name).finisher(options)
        return found
    if options.capabilities or options.profile != BuildOptions.profile:
        raise ExportError(f"target {name!r} builds no engines", fix="leave --compute-capability and --profile out")
    return None


def lower(name: str, precision: str, accuracy_level: int = 4, form: GraphForm = DEFAULT_FORM) -> Target:
    """Returns the ops of target `name` with weights of `precision`; raises ExportError for unknown names, and for a
    `form` that the target does not have.

    `accuracy_level` 4 multiplies int4 weights by activations rounded to int8 in blocks; 0 keeps activations in float32.
    """
    if name not in available():
        raise ExportError(
            f"target {name!r} is not supported", fix=f"supported: {', '.join(available()).replace('_', '-')}"
        )
    if precision not in WEIGHT_TYPES:
        raise ExportError(f"precision {precision!r} is not supported", fix=f"supported: {', '.join(WEIGHT_TYPES)}")
    if accuracy_level not in (0, 4):
        raise ExportError(f"accuracy level {accuracy_level} is not supported", fix="0 or 4")
    module = _module(name)
    if form == DEFAULT_FORM:
        target: Target = module.lower(precision, accuracy_level)
        return target
    for field, (option, what, reader) in _CHOICES.items():
        if getattr(form, field) is not None and not hasattr(module, what):
            raise ExportError(f"target {name} does not read {option}", fix=f"leave it out, or use --target {reader}")
    if form.cache not in (None, *CACHE_FORMS):
        raise ExportError(f"cache {form.cache!r} is not supported", fix=f"one of {', '.join(CACHE_FORMS)}")
    formed: Target = module.lower(precision, accuracy_level, form)
    return formed


def with_int8_attention(target: Target, name: str) -> Target:
    """Returns a target with int8 attention in the vision tower; raises ExportError if target `name` has only float."""
    if target.int8_attention is None:
        raise ExportError(f"target {name} has no int8 attention", fix="leave --int8-attention out")
    return replace(cast(Any, target), int8_attention=True)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
