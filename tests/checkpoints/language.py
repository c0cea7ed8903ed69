"""The language model that both trained checkpoints have, for batches of prompts with one image at the same position.

Parameters carry the names of transformers. All prompts of a batch share their positions, so rotary tables are computed
once a batch; this is several times faster than the general model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 256, 8, 2, 768, 4
HEAD_DIM = HIDDEN // HEADS


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPS)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split layout: x [batch, heads, tokens, dim], cos and sin [tokens, dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Attention in float32: its backward pass in bfloat16 takes five times as long on a CPU."""
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, is_causal=is_causal)


class GatedMlp(nn.Module):
    def __init__(self, size: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """Heads are normed (Qwen3) or their projections have biases (Qwen2.5)."""

    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=not qk_norm)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=not qk_norm)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=not qk_norm)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.q_norm, self.k_norm = (RMSNorm(HEAD_DIM) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, HEAD_DIM)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (t.transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (rotate(k, *rope), v))
        y = attend(rotate(q, *rope), k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.self_attn = Attention(qk_norm)
        self.mlp = GatedMlp(HIDDEN, FFN, bias=False)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(HIDDEN), RMSNorm(HIDDEN)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


def text_positions(tokens: int, image_start: int, h: int, w: int) -> Tensor:
    """M-RoPE positions [3, tokens] of a prompt with one image of h × w merged cells at `image_start`."""
    grid = torch.stack(
        (torch.zeros(h * w, dtype=torch.long), torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h))
    )
    after = torch.arange(tokens - image_start - h * w) + image_start + max(h, w)
    return torch.cat((torch.arange(image_start).expand(3, -1), grid + image_start, after.expand(3, -1)), dim=1)


def rotary(positions: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [tokens, HEAD_DIM / 2]; each frequency turns with the time, row or column in `axes`."""
    inverse = 10000.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = positions[axes].T * inverse
    return angles.cos(), angles.sin()


class LanguageModel(nn.Module):
    """`axes` [HEAD_DIM / 2] is the layout of M-RoPE; the head is tied to the embedding."""

    def __init__(self, vocab: int, axes: Tensor, qk_norm: bool) -> None:
        super().__init__()
        self.axes = axes
        self.embed_tokens = nn.Embedding(vocab, HIDDEN)
        self.layers = nn.ModuleList(DecoderLayer(qk_norm) for _ in range(LAYERS))
        self.norm = RMSNorm(HIDDEN)

    def forward(
        self, ids: Tensor, features: list[Tensor], grid: tuple[int, int], image_start: int, logits_from: int
    ) -> Tensor:
        """ids [B, T]; features [B, h·w, HIDDEN] for `image_start` on, those after the first added after each layer."""
        image = slice(image_start, image_start + grid[0] * grid[1])
        x = self.embed_tokens(ids)
        first, *deepstack = features
        x = torch.cat((x[:, : image.start], first.to(x.dtype), x[:, image.stop :]), dim=1)
        rope = rotary(text_positions(ids.shape[1], image_start, *grid), self.axes)
        for index, layer in enumerate(self.layers):
            x = layer(x, rope)
            if index < len(deepstack):
                x = x + F.pad(deepstack[index], (0, 0, image.start, x.shape[1] - image.stop))
        return F.linear(self.norm(x[:, logits_from:]), self.embed_tokens.weight)
