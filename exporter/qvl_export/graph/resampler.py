"""The resampler at the end of a vision tower: learned queries that attend to all patches of an image."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import ResamplerSpec, VisionSpec
from ..targets import Target
from .layers import AddNorm, Linear, Table
from .scale_folds import Fold


class Resampler(nn.Module):
    """Cross-attention of the queries over the patches, a norm and a linear; positions are added to q and k, not to v.

    Patches [frames, patches, width] → image tokens [frames · queries, out]. Source: arXiv 2308.12966, §2.1. Checkpoints
    call its parts `transformer.visual.attn_pool`, `ln_post` and `proj`.
    """

    def __init__(self, target: Target, spec: VisionSpec, resampler: ResamplerSpec, name: str | None = None) -> None:
        super().__init__(name)
        size = spec.out_hidden_size
        self.target, self.size, self.num_heads = target, size, resampler.num_heads
        self.last_block = f"vision.blocks.{spec.depth - 1}"
        self.query, self.query_position = (Table(target, resampler.queries, size) for _ in range(2))
        self.key_position = Table(target, spec.patches, size)
        self.kv_proj = Linear(target, spec.hidden_size, size, bias=False) if spec.hidden_size != size else None
        self.ln_q, self.ln_kv, self.ln_post = (AddNorm(target, size, spec.norm, spec.eps) for _ in range(3))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(target, size, size) for _ in range(4))
        self.proj = Linear(target, size, size, bias=False)

    def forward(self, op: OpBuilder, x: ir.Value, delta: ir.Value | None) -> ir.Value:
        if delta is not None:
            x = op.Add(x, delta)
            x.name = self.last_block
        queries, _ = self.ln_q(op, self.query(op))
        patches, _ = self.ln_kv(op, x if self.kv_proj is None else self.kv_proj(op, x))
        q = self.q_proj(op, op.Add(queries, self.query_position(op)))
        k, v = self.k_proj(op, op.Add(patches, self.key_position(op))), self.v_proj(op, patches)
        every_frame = op.Concat(op.Shape(x, start=0, end=1), op.Constant(value_ints=[1, 1]), axis=0)
        y = self.target.vision_attention(op, op.Expand(q, every_frame), k, v, self.num_heads, None)
        y, _ = self.ln_post(op, self.out_proj(op, y))
        return op.Reshape(self.proj(op, y), op.Constant(value_ints=[-1, self.size]))

    def folds(self) -> tuple[Fold, ...]:
        """`ln_kv` has no fold, as positions are added after it; nor has `kv_proj`, whose input comes from a block."""
        name, channels = self.name, np.arange(self.size)
        return (
            Fold((f"{name}.out_proj",), f"{name}.v_proj", channels),
            Fold((f"{name}.proj",), f"{name}.ln_post", channels),
        )
