"""A plain float32 reference of Qwen-VL (v1), for which transformers has no class; parameters have the published names.

Written from the paper (arXiv 2308.12966) and checked, fact by fact, against independent public implementations: vLLM's
`qwen_vl.py` and `layers/resampler.py` (tower, heads of the fused projection, resampler, preprocessing), the tower in
`mllm_npu` (SEED-X's use of it), PaddleMIX's `qwen_vl/modeling.py` (attention, RoPE with dynamic NTK, LogN, MLP), the
Ascend MindFormers tokenizer and the README of QwenLM/Qwen-VL (prompt). It was never run beside the original weights.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

QUERIES = 256
KeyValue = tuple[Tensor, Tensor]


def spread(table: Tensor, side: int) -> Tensor:
    """A square table of positions interpolated to side × side."""
    size = math.isqrt(len(table))
    if size == side:
        return table
    grid = table.reshape(1, size, size, -1).permute(0, 3, 1, 2)
    wide = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return wide.permute(0, 2, 3, 1).flatten(0, 2)


class HeadwiseAttention(nn.Module):
    """Self-attention whose fused projection gives q, k and v of the first head, then of the second …"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.in_proj(x).unflatten(-1, (self.heads, 3, -1))
        q, k, v = (split[:, :, part].transpose(0, 1) for part in range(3))
        weights = (q / math.sqrt(q.shape[-1]) @ k.transpose(-1, -2)).softmax(-1)
        return self.out_proj((weights @ v).transpose(0, 1).flatten(1))


class VisualBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = HeadwiseAttention(width, heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, inner), "c_proj": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class AttentionPool(nn.Module):
    """Positions are added to queries and keys; values have none."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.query, self.pos_embed = (nn.Parameter(torch.zeros(QUERIES, size)) for _ in range(2))
        self.kv_proj = nn.Linear(width, size, bias=False)
        self.attn = nn.MultiheadAttention(size, size // 128)
        self.ln_q, self.ln_kv = nn.LayerNorm(size, eps=1e-6), nn.LayerNorm(size, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        values = self.ln_kv(self.kv_proj(x))
        keys = values + spread(self.pos_embed, math.isqrt(len(x)))
        return self.attn(self.ln_q(self.query) + self.pos_embed, keys, values, need_weights=False)[0]


class Visual(nn.Module):
    """`transformer.visual`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, size, self.patch = config["width"], config["output_dim"], config["patch_size"]
        self.side = config["image_size"] // self.patch
        self.conv1 = nn.Conv2d(3, width, self.patch, self.patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.zeros(QUERIES, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(size, eps=1e-6)
        inner = int(width * config["mlp_ratio"])
        blocks = [VisualBlock(width, config["heads"], inner) for _ in range(config["layers"])]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.attn_pool = AttentionPool(width, size)
        self.proj = nn.Parameter(torch.zeros(size, size))

    def encode(self, image: Tensor) -> Tensor:
        """[3, H, W] → [256, size]."""
        x = self.conv1(image[None])[0].flatten(1).T
        x = self.ln_pre(x + spread(self.positional_embedding, math.isqrt(len(x))))
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(self.attn_pool(x)) @ self.proj

    def forward(self, patches: Tensor, grid_thw: Tensor) -> SimpleNamespace:
        """Flattened patches of images, row by row, put together again → [256 · images, size]."""
        images = patches.reshape(-1, self.side, self.side, 3, self.patch, self.patch).permute(0, 3, 1, 4, 2, 5)
        pixels = images.reshape(-1, 3, self.side * self.patch, self.side * self.patch)
        assert len(pixels) == len(grid_thw)
        return SimpleNamespace(pooler_output=torch.cat([self.encode(image) for image in pixels]))


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Rotary:
    """Half-split RoPE whose base grows with the length of the prompt."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.dim, self.base, self.trained = config["kv_channels"], config["rotary_emb_base"], config["seq_length"]
        self.dynamic = config["use_dynamic_ntk"]

    def tables(self, positions: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        """cos and sin [S, dim] for a prompt of this number of tokens."""
        alpha = max(2 ** math.ceil(math.log(prompt / self.trained, 2) + 1) - 1, 1) if self.dynamic else 1
        base = self.base * alpha ** (self.dim / (self.dim - 2))
        angles = torch.outer(positions.float(), 1 / base ** (torch.arange(0, self.dim, 2).float() / self.dim))
        both = torch.cat((angles, angles), -1)
        return both.cos(), both.sin()


def turned(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """x [heads, S, dim]."""
    first, second = x.chunk(2, -1)
    return x * tables[0] + torch.cat((-second, first), -1) * tables[1]


class Block(nn.Module):
    """`transformer.h.N`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, inner, eps = config["hidden_size"], config["intermediate_size"] // 2, config["layer_norm_epsilon"]
        self.heads, self.trained = config["num_attention_heads"], config["seq_length"]
        self.logn = config["use_logn_attn"]
        self.ln_1, self.ln_2 = RmsNorm(size, eps), RmsNorm(size, eps)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(size, 3 * size), "c_proj": nn.Linear(size, size, bias=False)})
        self.mlp = nn.ModuleDict({name: nn.Linear(size, inner, bias=False) for name in ("w1", "w2")})
        self.mlp["c_proj"] = nn.Linear(inner, size, bias=False)

    def attend(self, x: Tensor, tables: tuple[Tensor, Tensor], past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(0, 1) for y in self.attn["c_attn"](x).chunk(3, -1))
        q, k = turned(q, tables), turned(k, tables)
        if past is not None:
            k, v = torch.cat((past[0], k), 1), torch.cat((past[1], v), 1)
        places = range(k.shape[1] - len(x) + 1, k.shape[1] + 1)
        if self.logn:
            scales = [math.log(place, self.trained) if place > self.trained else 1 for place in places]
            q = q * torch.tensor(scales)[:, None]
        seen = torch.arange(1, k.shape[1] + 1) <= torch.tensor(list(places))[:, None]
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~seen, -torch.inf)
        return self.attn["c_proj"]((scores.softmax(-1) @ v).transpose(0, 1).flatten(1)), (k, v)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor], past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        attended, present = self.attend(self.ln_1(x), tables, past)
        x = x + attended
        y = self.ln_2(x)
        return x + self.mlp["c_proj"](self.mlp["w1"](y) * functional.silu(self.mlp["w2"](y))), present


class QwenVl(nn.Module):
    """The whole model; `forward` and `generate` are those of transformers' models, as far as tests ask for them."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.raw = config
        self.config = SimpleNamespace(**config)
        size = config["hidden_size"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config["vocab_size"], size),
                "h": nn.ModuleList([Block(config) for _ in range(config["num_hidden_layers"])]),
                "ln_f": RmsNorm(size, config["layer_norm_epsilon"]),
                "visual": Visual(config["visual"]),
            }
        )
        self.lm_head = nn.Linear(size, config["vocab_size"], bias=False)
        self.rotary = Rotary(config)

    @property
    def model(self) -> SimpleNamespace:
        return SimpleNamespace(visual=self.transformer["visual"])

    def embed(self, ids: Tensor, pixel_values: Tensor | None, image_grid_thw: Tensor | None) -> Tensor:
        """Image features replace the embeddings between each start and end tag."""
        x, start = self.transformer["wte"](ids), self.raw["visual"]["image_start_id"]
        if pixel_values is not None:
            features = self.transformer["visual"](pixel_values, image_grid_thw).pooler_output
            for begin, rows in zip((ids == start).nonzero()[:, 0], features.split(QUERIES), strict=True):
                assert ids[begin + QUERIES + 1] == start + 1
                x[begin + 1 : begin + QUERIES + 1] = rows
        return x

    def decode(
        self, x: Tensor, pasts: list[KeyValue | None], prompt: int
    ) -> tuple[list[Tensor], list[KeyValue | None]]:
        """Hidden states after each layer, and keys and values."""
        first = 0 if pasts[0] is None else pasts[0][0].shape[1]
        tables = self.rotary.tables(torch.arange(first, first + len(x)), prompt)
        states, presents = [x], []
        for block, past in zip(self.transformer["h"], pasts, strict=True):
            x, present = block(x, tables, past)
            states.append(x)
            presents.append(present)
        return states, presents

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> SimpleNamespace:
        x = self.embed(input_ids[0], pixel_values, image_grid_thw)
        states, presents = self.decode(x, [None] * len(self.transformer["h"]), len(x))
        last = self.transformer["ln_f"](states[-1])
        hidden = tuple(state[None] for state in (*states[:-1], last))
        return SimpleNamespace(logits=self.lm_head(last)[None], hidden_states=hidden, presents=presents)

    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        eos_token_id: Any = (),
        return_dict_in_generate: bool = False,
        **inputs: Any,
    ) -> Any:
        """Greedy; frequencies stay those of the prompt."""
        found = self(input_ids, **{name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs})
        logits, presents, tokens = [found.logits[:, -1]], found.presents, input_ids[0].tolist()
        for _ in range(max_new_tokens):
            tokens.append(int(logits[-1].argmax()))
            if tokens[-1] in eos_token_id or len(tokens) == input_ids.shape[1] + max_new_tokens:
                break
            x = self.transformer["wte"](torch.tensor(tokens[-1:]))
            states, presents = self.decode(x, presents, input_ids.shape[1])
            logits.append(self.lm_head(self.transformer["ln_f"](states[-1])))
        sequences = torch.tensor([tokens])
        return SimpleNamespace(sequences=sequences, logits=tuple(logits)) if return_dict_in_generate else sequences

    def save_pretrained(self, directory: Path, **_: Any) -> None:
        """The checkpoint with its published names."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, directory / "model.safetensors"
        )
        (directory / "config.json").write_text(json.dumps(self.raw))
