"""The `vision` graph: patches of one image or video → image features and DeepStack features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import VisionSpec
from ..targets import Target, WindowInputs
from .layers import Activate, AddNorm, Embedding, GatedMlp, Linear, Mlp, Table, constant, inverse_frequencies
from .resampler import Resampler
from .scale_folds import Fold


class Rope(NamedTuple):
    """Rotary tables of the patches, [frames, patches, head_dim / 2]."""

    cos: ir.Value
    sin: ir.Value


class VisionInputs(NamedTuple):
    """Inputs of the `vision` graph, see docs/graph-contract.md; None for inputs that the tower does not have."""

    pixel_values: ir.Value
    patch_positions: ir.Value | None = None
    windows: WindowInputs | None = None
    interpolation: tuple[ir.Value, ir.Value] | None = None


def patch_rope(op: OpBuilder, spec: VisionSpec, patch_positions: ir.Value | None) -> Rope | None:
    """Row angles, then column angles: [frames, patches, 2] → [frames, patches, head_dim / 2]; None if no positions."""
    if patch_positions is None:
        return None
    inverse = constant(op, inverse_frequencies(spec.head_dim // 2, spec.rope_theta), "inverse_frequencies")
    positions = op.Unsqueeze(op.Cast(patch_positions, to=ir.DataType.FLOAT), op.Constant(value_ints=[-1]))
    angles = op.Reshape(op.Mul(positions, inverse), op.Constant(value_ints=[0, 0, spec.head_dim // 2]))
    return Rope(op.Cos(angles), op.Sin(angles))


class PatchEmbed(nn.Module):
    """A convolution whose stride equals its kernel, as a linear over each flattened patch."""

    def __init__(self, target: Target, spec: VisionSpec, kernel: list[int], name: str | None = None) -> None:
        super().__init__(name)
        shape = [spec.hidden_size, *kernel]
        self.proj = Linear(target, spec.patch_dim, spec.hidden_size, spec.patch_bias, source_shape=shape)

    def forward(self, op: OpBuilder, patches: ir.Value) -> ir.Value:
        return self.proj(op, patches)


class PositionedPatchEmbed(PatchEmbed):
    """A patch embedding that adds a learned position per patch and a norm."""

    def __init__(self, target: Target, spec: VisionSpec, kernel: list[int], name: str | None = None) -> None:
        super().__init__(target, spec, kernel, name)
        self.position = Table(target, spec.patches, spec.hidden_size)
        self.norm = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)

    def forward(self, op: OpBuilder, patches: ir.Value) -> ir.Value:
        y, _ = self.norm(op, op.Add(super().forward(op, patches), self.position(op)))
        return y


def patch_embed(target: Target, spec: VisionSpec, kernel: list[int], name: str | None = None) -> PatchEmbed:
    """Returns the module that turns pixel patches into inputs of the first block."""
    return (PositionedPatchEmbed if spec.patches else PatchEmbed)(target, spec, kernel, name)


def embed(op: OpBuilder, patches: PatchEmbed, table: Embedding | None, inputs: VisionInputs) -> ir.Value:
    """Embeds patches and, if the tower has a position table, adds the interpolation of the four nearest positions."""
    x = patches(op, inputs.pixel_values)
    if table is None or inputs.interpolation is None:
        return x
    indices, weights = inputs.interpolation
    nearest = op.Mul(table(op, indices), op.Unsqueeze(weights, op.Constant(value_ints=[-1])))
    return op.Add(x, op.ReduceSum(nearest, op.Constant(value_ints=[0]), keepdims=0))


class VisionAttention(nn.Module):
    def __init__(self, target: Target, spec: VisionSpec) -> None:
        super().__init__()
        self.target, self.num_heads = target, spec.num_heads
        self.qkv = Linear(target, spec.hidden_size, 3 * spec.hidden_size)
        self.proj = Linear(target, spec.hidden_size, spec.hidden_size)

    def forward(self, op: OpBuilder, x: ir.Value, rope: Rope | None, windows: WindowInputs | None) -> ir.Value:
        q, k, v = self.qkv(op, x, parts=3)
        if rope is not None:
            q, k = (self.target.rotary(op, y, rope.cos, rope.sin, self.num_heads) for y in (q, k))
        y = self.target.vision_attention(op, q, k, v, self.num_heads, windows, self.qkv.integer)
        return self.proj(op, y)


class VisionBlock(nn.Module):
    """Pre-norm attention and MLP; takes and returns the residual stream and its pending addend."""

    def __init__(self, target: Target, spec: VisionSpec, index: int, name: str | None = None) -> None:
        super().__init__(name)
        self.index, self.windowed = index, index not in spec.full_attention_blocks
        self.norm1 = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)
        self.norm2 = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)
        self.attn = VisionAttention(target, spec)
        size, inner = spec.hidden_size, spec.intermediate_size
        self.mlp = (
            GatedMlp(target, size, inner, spec.activation, bias=True)
            if spec.gated
            else Mlp(target, size, inner, size, spec.activation, spec.fc)
        )

    def forward(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, rope: Rope | None, windows: WindowInputs | None
    ) -> tuple[ir.Value, ir.Value]:
        y, x = self.norm1(op, x, delta, name=f"vision.blocks.{self.index - 1}" if delta is not None else None)
        y, x = self.norm2(op, x, self.attn(op, y, rope, windows if self.windowed else None))
        return x, self.mlp(op, y)

    def folds(self) -> tuple[Fold, ...]:
        """The folds of the linears' input scales; none passes an activation between two linears."""
        name, size = self.name, self.attn.proj.rows
        channels = np.arange(size)
        into = ("gate_proj", "up_proj") if isinstance(self.mlp, GatedMlp) else self.mlp.names[:1]
        folds = [
            Fold((f"{name}.attn.qkv",), f"{name}.norm1", channels),
            Fold((f"{name}.attn.proj",), f"{name}.attn.qkv", channels + 2 * size),
            Fold(tuple(f"{name}.mlp.{linear}" for linear in into), f"{name}.norm2", channels),
        ]
        if isinstance(self.mlp, GatedMlp):
            folds.append(self.mlp.fold(f"{name}.mlp"))
        return tuple(folds)


class PatchMerger(nn.Module):
    """A norm, then merge × merge neighboring patches become one image token."""

    def __init__(self, target: Target, spec: VisionSpec, name: str | None = None) -> None:
        super().__init__(name)
        self.merged_size = spec.hidden_size * spec.spatial_merge_size**2
        self.last_block = f"vision.blocks.{spec.depth - 1}"
        self.ln_q = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)
        size = self.merged_size
        first, last = Linear(target, size, size), Linear(target, size, spec.out_hidden_size)
        self.mlp = nn.Sequential(first, Activate(target, "gelu"), last)

    def forward(self, op: OpBuilder, x: ir.Value, delta: ir.Value | None) -> ir.Value:
        y, _ = self.ln_q(op, x, delta, name=self.last_block if delta is not None else None)
        return self.mlp(op, op.Reshape(y, op.Constant(value_ints=[-1, self.merged_size])))

    def folds(self) -> tuple[Fold, ...]:
        """The norm's outputs are single patches, the first linear's input is `merge²` of them concatenated."""
        size = self.ln_q.weight.source_shape[0]
        return (Fold((f"{self.name}.mlp.0",), f"{self.name}.ln_q", np.arange(self.merged_size) % size),)


class FlatMerger(Mlp):
    """A merger whose norm and linears are siblings in the checkpoint."""

    def __init__(self, target: Target, spec: VisionSpec, name: str | None = None) -> None:
        self.merged_size = spec.hidden_size * spec.spatial_merge_size**2
        self.last_block = f"vision.blocks.{spec.depth - 1}"
        super().__init__(target, self.merged_size, self.merged_size, spec.out_hidden_size, "gelu", spec.fc, name)
        self.norm = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)

    def forward(self, op: OpBuilder, x: ir.Value, delta: ir.Value | None = None) -> ir.Value:
        y, _ = self.norm(op, x, delta, name=self.last_block if delta is not None else None)
        return super().forward(op, op.Reshape(y, op.Constant(value_ints=[-1, self.merged_size])))

    def folds(self) -> tuple[Fold, ...]:
        """As in `PatchMerger`."""
        size = self.norm.weight.source_shape[0]
        return (Fold((f"{self.name}.{self.names[0]}",), f"{self.name}.norm", np.arange(self.merged_size) % size),)


class DeepstackMerger(Mlp):
    """A merger of the output of an inner block; its norm is applied to whole image tokens."""

    def __init__(self, target: Target, spec: VisionSpec, name: str | None = None) -> None:
        self.merged_size = spec.hidden_size * spec.spatial_merge_size**2
        super().__init__(target, self.merged_size, self.merged_size, spec.out_hidden_size, "gelu", spec.fc, name)
        self.norm = AddNorm(target, self.merged_size, spec.norm, spec.eps)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y, _ = self.norm(op, op.Reshape(x, op.Constant(value_ints=[-1, self.merged_size])))
        return super().forward(op, y)

    def folds(self) -> tuple[Fold, ...]:
        """The norm's outputs are the first linear's inputs, channel by channel."""
        return (Fold((f"{self.name}.{self.names[0]}",), f"{self.name}.norm", np.arange(self.merged_size)),)


def image_merger(target: Target, spec: VisionSpec, name: str | None = None) -> PatchMerger | FlatMerger | Resampler:
    """Returns the module that turns patches into image tokens at the end of the tower."""
    if spec.resampler:
        return Resampler(target, spec, spec.resampler, name)
    return PatchMerger(target, spec, name) if spec.fc == "fc" else FlatMerger(target, spec, name)


def feature_linears(spec: VisionSpec) -> list[str]:
    """Names of the linears that produce image features and DeepStack features."""
    if spec.resampler:
        return ["visual.merger.proj"]
    deepstack = [f"visual.deepstack_merger_list.{number}" for number in range(len(spec.deepstack_blocks))]
    if spec.fc == "fc":
        return ["visual.merger.mlp.2"]
    return [f"{merger}.{spec.fc}2" for merger in ("visual.merger", *deepstack)]


def position_table(target: Target, spec: VisionSpec, name: str | None = None) -> Embedding | None:
    """The table of learned positions, or None if the tower has none."""
    return Embedding(target, spec.position_table**2, spec.hidden_size, name) if spec.position_table else None


class VisionTower(nn.Module):
    """`visual.…` of the checkpoint."""

    def __init__(self, target: Target, spec: VisionSpec, kernel: list[int]) -> None:
        super().__init__("visual")
        self.spec = spec
        self.patch_embed = patch_embed(target, spec, kernel)
        self.pos_embed = position_table(target, spec)
        self.blocks = nn.ModuleList([VisionBlock(target, spec, index) for index in range(spec.depth)])
        self.merger = image_merger(target, spec)
        self.deepstack_merger_list = nn.ModuleList([DeepstackMerger(target, spec) for _ in spec.deepstack_blocks])

    def forward(self, op: OpBuilder, inputs: VisionInputs) -> list[ir.Value]:
        """Returns image features, then DeepStack features in the order of their blocks."""
        rope = patch_rope(op, self.spec, inputs.patch_positions)
        x, delta = embed(op, self.patch_embed, self.pos_embed, inputs), None
        mergers = dict(zip(self.spec.deepstack_blocks, self.deepstack_merger_list, strict=True))
        deepstack = []
        for index, block in enumerate(self.blocks):
            x, delta = block(op, x, delta, rope, inputs.windows)
            if index in mergers:
                x, delta = op.Add(x, delta), None
                x.name = f"vision.blocks.{index}"
                deepstack.append(mergers[index](op, x))
        return [self.merger(op, x, delta), *deepstack]
