"""The vision towers of the trained checkpoints, for batches of images of one size.

Parameters carry the names of transformers. Patches run in merge order: the MERGE² of one cell are neighbors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .language import EPS, HIDDEN, GatedMlp, RMSNorm, attend, rotate

MERGE = 2
Rope = tuple[Tensor, Tensor]


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (2, patch, patch), bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """images [batch, 3, H, W] → [batch, patches, width]; a still repeats its frame."""
        batch, _, height, width = images.shape
        patch = self.proj.kernel_size[-1]
        h, w = height // (patch * MERGE), width // (patch * MERGE)
        patches = images.view(batch, 3, h, MERGE, patch, w, MERGE, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
        weight = self.proj.weight.sum(2).flatten(1)
        return F.linear(patches.reshape(batch, h * w * MERGE**2, -1), weight, self.proj.bias)


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Rope, mask: Tensor | None = None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = attend(rotate(q, *rope), rotate(k, *rope), v, mask)
        return self.proj(y.transpose(1, 2).flatten(2))


def merge_order(plane: Tensor) -> Tensor:
    """[H, W, …] of patches → [H · W, …] in merge order."""
    h, w = plane.shape[0] // MERGE, plane.shape[1] // MERGE
    return plane.unflatten(1, (w, MERGE)).unflatten(0, (h, MERGE)).transpose(1, 2).flatten(0, 3)


def patch_positions(h: int, w: int) -> Tensor:
    """Row and column of every patch of h × w in merge order, [2, h · w]."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack((merge_order(rows), merge_order(columns)))


def vision_rotary(positions: Tensor, head_dim: int) -> Rope:
    """Half of the frequencies turn with the row, half with the column."""
    inverse = 10000.0 ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angles = torch.cat([axis[:, None] * inverse for axis in positions], dim=-1)
    return angles.cos(), angles.sin()


class WindowedBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn = VisionAttention(width, heads)
        self.mlp = GatedMlp(width, inner, bias=True)

    def forward(self, x: Tensor, rope: Rope, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, mask)
        return x + self.mlp(self.norm2(x))


class SequentialMerger(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = width * MERGE**2
        self.ln_q = RMSNorm(width)
        self.mlp = nn.Sequential(nn.Linear(self.wide, self.wide), nn.GELU(), nn.Linear(self.wide, HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.wide))


class WindowedTower(nn.Module):
    """Qwen2.5-VL's: RMSNorm, gated MLPs, windows of 112 px but for two blocks."""

    patch, width, heads, inner, depth = 14, 160, 5, 448, 4
    window, full_attention_blocks, deepstack_blocks = 8, (1, 3), ()

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(self.width, self.patch, bias=False)
        self.blocks = nn.ModuleList(WindowedBlock(self.width, self.heads, self.inner) for _ in range(self.depth))
        self.merger = SequentialMerger(self.width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images [batch, 3, H, W] → one feature [batch, cells, HIDDEN]."""
        positions = patch_positions(images.shape[2] // self.patch, images.shape[3] // self.patch)
        rope = vision_rotary(positions, self.width // self.heads)
        window = positions // self.window
        same_window = (window[:, :, None] == window[:, None, :]).all(0)
        x = self.patch_embed(images)
        for index, block in enumerate(self.blocks):
            x = block(x, rope, None if index in self.full_attention_blocks else same_window)
        return [self.merger(x)]


class PlainMlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn = VisionAttention(width, heads)
        self.mlp = PlainMlp(width, inner)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """The norm is over patches, in those for DeepStack over merged cells."""

    def __init__(self, width: int, deepstack: bool) -> None:
        super().__init__()
        self.wide, self.deepstack = width * MERGE**2, deepstack
        self.norm = nn.LayerNorm(self.wide if deepstack else width, eps=EPS)
        self.linear_fc1, self.linear_fc2 = nn.Linear(self.wide, self.wide), nn.Linear(self.wide, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], -1, self.wide) if self.deepstack else x
        return self.linear_fc2(F.gelu(self.linear_fc1(self.norm(x).reshape(x.shape[0], -1, self.wide))))


class PlainTower(nn.Module):
    """Qwen3.5's: LayerNorm, plain MLPs, an interpolated table of positions."""

    patch, width, heads, inner, depth = 16, 128, 4, 512, 4
    table = 16
    deepstack_blocks: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(self.width, self.patch, bias=True)
        self.pos_embed = nn.Embedding(self.table**2, self.width)
        nn.init.normal_(self.pos_embed.weight, std=0.02)
        self.blocks = nn.ModuleList(PlainBlock(self.width, self.heads, self.inner) for _ in range(self.depth))
        self.merger = Merger(self.width, deepstack=False)
        self.deepstack_merger_list = nn.ModuleList(Merger(self.width, deepstack=True) for _ in self.deepstack_blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images [batch, 3, H, W] → the feature and those for DeepStack, each [batch, cells, HIDDEN]."""
        h, w = images.shape[2] // self.patch, images.shape[3] // self.patch
        rope = vision_rotary(patch_positions(h, w), self.width // self.heads)
        x = self.patch_embed(images) + self.position_embeddings(h, w)
        between = []
        for index, block in enumerate(self.blocks):
            x = block(x, rope)
            if index in self.deepstack_blocks:
                between.append(self.deepstack_merger_list[len(between)](x))
        return [self.merger(x), *between]

    def position_embeddings(self, h: int, w: int) -> Tensor:
        """The table spread over h × w patches, corners on corners, [h · w, width] in merge order."""
        plane = self.pos_embed.weight.view(1, self.table, self.table, -1).permute(0, 3, 1, 2)
        spread = F.interpolate(plane.float(), (h, w), mode="bilinear", align_corners=True)
        return merge_order(spread[0].permute(1, 2, 0))


class DeepStackTower(PlainTower):
    """Qwen3-VL's: features from inside the tower too."""

    deepstack_blocks = (0, 2)
