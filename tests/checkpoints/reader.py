"""The reference checkpoint's network for training: a Qwen2.5-VL over batches of pages of one size.

The parameters carry the Hugging Face names, so that a state dict moves to and from
`transformers.Qwen2_5_VLForConditionalGeneration` as it is. All pages of a batch have the same size, so positions,
window masks and rotary tables are computed once a batch; this is several times faster than the general model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 256, 8, 2, 768, 4
MROPE_SECTION = (4, 6, 6)
V_HIDDEN, V_HEADS, V_FFN, V_DEPTH = 160, 5, 448, 4
FULL_ATTENTION_BLOCKS = (1, 3)
PATCH, MERGE, WINDOW = 14, 2, 4  # WINDOW in merged cells: 112 px


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, EPS)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split layout: x [batch, heads, tokens, dim], cos and sin [tokens, dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Mlp(nn.Module):
    def __init__(self, size: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(V_HIDDEN, 3 * V_HIDDEN)
        self.proj = nn.Linear(V_HIDDEN, V_HIDDEN)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, V_HEADS, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, *rope), rotate(k, *rope), v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).flatten(2))


class VisionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(V_HIDDEN), RMSNorm(V_HIDDEN)
        self.attn = VisionAttention()
        self.mlp = Mlp(V_HIDDEN, V_FFN, bias=True)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, mask)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        wide = V_HIDDEN * MERGE**2
        self.ln_q = RMSNorm(V_HIDDEN)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).view(x.shape[0], -1, V_HIDDEN * MERGE**2))


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, V_HIDDEN, (2, PATCH, PATCH), bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """images [batch, 3, H, W] → [batch, patches, V_HIDDEN] in merge order; a still repeats its frame."""
        batch, _, height, width = images.shape
        h, w = height // (PATCH * MERGE), width // (PATCH * MERGE)
        patches = images.view(batch, 3, h, MERGE, PATCH, w, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
        return F.linear(patches.reshape(batch, h * w * MERGE**2, -1), self.proj.weight.sum(2).flatten(1))


def vision_positions(h: int, w: int) -> Tensor:
    """Row and column of every patch in merge order, [2, 4·h·w]."""
    rows = torch.arange(h * MERGE).view(h, 1, MERGE, 1).expand(h, w, MERGE, MERGE)
    columns = torch.arange(w * MERGE).view(1, w, 1, MERGE).expand(h, w, MERGE, MERGE)
    return torch.stack((rows.flatten(), columns.flatten()))


class VisionTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(VisionBlock() for _ in range(V_DEPTH))
        self.merger = PatchMerger()

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[2] // (PATCH * MERGE), images.shape[3] // (PATCH * MERGE)
        positions = vision_positions(h, w)
        dim = V_HIDDEN // V_HEADS // 2
        inverse = 10000.0 ** -(torch.arange(0, dim, 2) / dim)
        angles = torch.cat([axis[:, None] * inverse for axis in positions], dim=-1)
        window = positions // (WINDOW * MERGE)
        same_window = (window[:, :, None] == window[:, None, :]).all(0)
        rope = angles.cos(), angles.sin()
        x = self.patch_embed(images)
        for index, block in enumerate(self.blocks):
            x = block(x, rope, None if index in FULL_ATTENTION_BLOCKS else same_window)
        return self.merger(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim = HIDDEN // HEADS
        self.q_proj = nn.Linear(HIDDEN, HIDDEN)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * dim)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * dim)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (rotate(k, *rope), v))
        y = F.scaled_dot_product_attention(rotate(q, *rope), k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.mlp = Mlp(HIDDEN, FFN, bias=False)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(HIDDEN), RMSNorm(HIDDEN)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class LanguageModel(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, HIDDEN)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = RMSNorm(HIDDEN)


def text_positions(tokens: int, image_start: int, h: int, w: int) -> Tensor:
    """M-RoPE positions [3, tokens] of a prompt with one image of h × w merged cells at `image_start`."""
    grid = torch.stack(
        (torch.zeros(h * w, dtype=torch.long), torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h))
    )
    after = torch.arange(tokens - image_start - h * w) + image_start + max(h, w)
    return torch.cat((torch.arange(image_start).expand(3, -1), grid + image_start, after.expand(3, -1)), dim=1)


class Reader(nn.Module):
    """`model.visual.…` and `model.language_model.…`; the head is tied to the embedding."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"visual": VisionTower(), "language_model": LanguageModel(vocab)})

    def forward(self, images: Tensor, ids: Tensor, image_start: int, logits_from: int) -> tuple[Tensor, Tensor]:
        """images [B, 3, H, W], ids [B, T] with image tokens at `image_start` → (logits [B, T', V], features)."""
        h, w = images.shape[2] // (PATCH * MERGE), images.shape[3] // (PATCH * MERGE)
        features, language = self.model["visual"](images), self.model["language_model"]
        x = language.embed_tokens(ids)
        x = torch.cat((x[:, :image_start], features, x[:, image_start + h * w :]), dim=1)
        rope = self.rope(text_positions(ids.shape[1], image_start, h, w))
        for layer in language.layers:
            x = layer(x, rope)
        return F.linear(language.norm(x[:, logits_from:]), language.embed_tokens.weight), features

    @staticmethod
    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        """Chunked M-RoPE: frequencies 0..3 turn with time, 4..9 with the row, 10..15 with the column."""
        dim = HIDDEN // HEADS
        inverse = 10000.0 ** -(torch.arange(0, dim, 2) / dim)
        axis = torch.repeat_interleave(torch.arange(3), torch.tensor(MROPE_SECTION))
        angles = positions[axis].T * inverse
        return angles.cos(), angles.sin()
