"""The `vision` graph: patches of one image or video → image features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import VisionSpec
from ..targets import Target, WindowInputs
from .folds import Fold
from .layers import Activate, AddNorm, GatedMlp, Linear, Mlp, constant, inverse_frequencies


class Rope(NamedTuple):
    """Rotary tables of the patches, [frames, patches, head_dim / 2]."""

    cos: ir.Value
    sin: ir.Value


def patch_rope(op: OpBuilder, spec: VisionSpec, patch_positions: ir.Value) -> Rope:
    """Row angles, then column angles: [frames, patches, 2] → [frames, patches, head_dim / 2]."""
    inverse = constant(op, inverse_frequencies(spec.head_dim // 2, spec.rope_theta), "inverse_frequencies")
    positions = op.Unsqueeze(op.Cast(patch_positions, to=ir.DataType.FLOAT), op.Constant(value_ints=[-1]))
    angles = op.Reshape(op.Mul(positions, inverse), op.Constant(value_ints=[0, 0, spec.head_dim // 2]))
    return Rope(op.Cos(angles), op.Sin(angles))


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel: one linear over each flattened patch."""

    def __init__(self, target: Target, spec: VisionSpec, kernel: list[int], name: str | None = None) -> None:
        super().__init__(name)
        shape = [spec.hidden_size, *kernel]
        self.proj = Linear(target, spec.patch_dim, spec.hidden_size, bias=False, source_shape=shape)

    def forward(self, op: OpBuilder, patches: ir.Value) -> ir.Value:
        return self.proj(op, patches)


class VisionAttention(nn.Module):
    def __init__(self, target: Target, spec: VisionSpec) -> None:
        super().__init__()
        self.target, self.num_heads = target, spec.num_heads
        self.qkv = Linear(target, spec.hidden_size, 3 * spec.hidden_size)
        self.proj = Linear(target, spec.hidden_size, spec.hidden_size)

    def forward(self, op: OpBuilder, x: ir.Value, rope: Rope, windows: WindowInputs | None) -> ir.Value:
        q, k, v = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        q, k = (self.target.rotary(op, y, rope.cos, rope.sin, self.num_heads) for y in (q, k))
        return self.proj(op, self.target.vision_attention(op, q, k, v, self.num_heads, windows))


class VisionBlock(nn.Module):
    """Pre-norm attention and MLP; takes and returns the residual stream and its pending addend."""

    def __init__(self, target: Target, spec: VisionSpec, index: int, name: str | None = None) -> None:
        super().__init__(name)
        self.index, self.windowed = index, index not in spec.full_attention_blocks
        self.norm1 = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)
        self.norm2 = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)
        self.attn = VisionAttention(target, spec)
        sizes = spec.hidden_size, spec.intermediate_size
        self.mlp = (
            GatedMlp(target, *sizes, spec.activation, bias=True) if spec.gated else Mlp(target, *sizes, spec.activation)
        )

    def forward(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, rope: Rope, windows: WindowInputs | None
    ) -> tuple[ir.Value, ir.Value]:
        y, x = self.norm1(op, x, delta, name=f"vision.blocks.{self.index - 1}" if delta is not None else None)
        y, x = self.norm2(op, x, self.attn(op, y, rope, windows if self.windowed else None))
        return x, self.mlp(op, y)

    def folds(self) -> tuple[Fold, ...]:
        """Where scales of the linears' inputs can go; an activation between two linears lets none through."""
        name, size = self.name, self.attn.proj.rows
        channels = np.arange(size)
        gated = isinstance(self.mlp, GatedMlp)
        into = (f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj") if gated else (f"{name}.mlp.fc1",)
        folds = [
            Fold((f"{name}.attn.qkv",), f"{name}.norm1", channels),
            Fold((f"{name}.attn.proj",), f"{name}.attn.qkv", channels + 2 * size),
            Fold(into, f"{name}.norm2", channels),
        ]
        if isinstance(self.mlp, GatedMlp):
            folds.append(self.mlp.fold(f"{name}.mlp"))
        return tuple(folds)


class PatchMerger(nn.Module):
    """Norm, then merge × merge neighbouring patches become one image token."""

    def __init__(self, target: Target, spec: VisionSpec, name: str | None = None) -> None:
        super().__init__(name)
        self.wide = spec.hidden_size * spec.spatial_merge_size**2
        self.last_block = f"vision.blocks.{spec.depth - 1}"
        self.ln_q = AddNorm(target, spec.hidden_size, spec.norm, spec.eps)
        wide = self.wide
        first, last = Linear(target, wide, wide), Linear(target, wide, spec.out_hidden_size)
        self.mlp = nn.Sequential(first, Activate(target, "gelu"), last)

    def forward(self, op: OpBuilder, x: ir.Value, delta: ir.Value | None) -> ir.Value:
        y, _ = self.ln_q(op, x, delta, name=self.last_block if delta is not None else None)
        return self.mlp(op, op.Reshape(y, op.Constant(value_ints=[-1, self.wide])))

    def folds(self) -> tuple[Fold, ...]:
        """The norm sees single patches, the first linear `merge²` of them side by side."""
        size = self.ln_q.weight.source_shape[0]
        return (Fold((f"{self.name}.mlp.0",), f"{self.name}.ln_q", np.arange(self.wide) % size),)


class VisionTower(nn.Module):
    """`visual.…` of the checkpoint."""

    def __init__(self, target: Target, spec: VisionSpec, kernel: list[int]) -> None:
        super().__init__("visual")
        self.spec = spec
        self.patch_embed = PatchEmbed(target, spec, kernel)
        self.blocks = nn.ModuleList([VisionBlock(target, spec, index) for index in range(spec.depth)])
        self.merger = PatchMerger(target, spec)

    def forward(
        self, op: OpBuilder, pixel_values: ir.Value, patch_positions: ir.Value, windows: WindowInputs | None
    ) -> ir.Value:
        rope = patch_rope(op, self.spec, patch_positions)
        x, delta = self.patch_embed(op, pixel_values), None
        for block in self.blocks:
            x, delta = block(op, x, delta, rope, windows)
        return self.merger(op, x, delta)
