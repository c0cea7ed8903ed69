"""Qwen3.5's language model for the trainer: gated delta rule in most layers, gated full attention in one.

Parameters carry the names of transformers. Prompts are short (about 130 tokens), so the delta rule runs in its parallel
form over the whole prompt, [T, T] per head, instead of in chunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .language import EPS, FFN, HEADS, HIDDEN, KV_HEADS, GatedMlp, attend, rotary, rotate, text_positions

LAYER_TYPES = ("linear", "linear", "linear", "full", "linear")
KEY_HEADS, VALUE_HEADS, STATE_DIM, TAPS = 4, 8, 32, 4
FULL_HEAD_DIM, ROTARY_DIM = 128, 32
"""A quarter of each head is rotated: as many dimensions as a head of reference_qwen3 has."""


class ZeroCenteredNorm(nn.Module):
    """RMSNorm whose gain is 1 + weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight, EPS)


class GatedNorm(nn.Module):
    """RMSNorm, times SiLU of the gate."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPS) * F.silu(gate.float())


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    """Outputs [B, H, T, D] of S_t = e^decay_t S_(t-1) (I - beta_t k_t k_t') + beta_t v_t k_t', read by q_t.

    q and k [B, H, T, K] of length one, v [B, H, T, D], decay (its logarithm) and beta [B, H, T]; all float32.
    What each token writes, u, solves (I + A) u = beta v, with A below its diagonal.
    """
    since = decay.cumsum(-1)
    apart = (since[..., :, None] - since[..., None, :]).masked_fill(~causal(k.shape[2]), -torch.inf).exp()
    overlap = (beta[..., None] * k) @ k.transpose(-1, -2) * apart
    written = torch.linalg.solve_triangular(overlap, beta[..., None] * v, upper=False, unitriangular=True)
    return (q @ k.transpose(-1, -2) * apart) @ written * q.shape[-1] ** -0.5


def causal(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


class GatedDeltaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        keys, values = KEY_HEADS * STATE_DIM, VALUE_HEADS * STATE_DIM
        self.widths = (keys, keys, values)
        self.in_proj_qkv = nn.Linear(HIDDEN, sum(self.widths), bias=False)
        self.in_proj_z = nn.Linear(HIDDEN, values, bias=False)
        self.in_proj_a, self.in_proj_b = (nn.Linear(HIDDEN, VALUE_HEADS, bias=False) for _ in range(2))
        self.conv1d = nn.Conv1d(sum(self.widths), sum(self.widths), TAPS, groups=sum(self.widths), bias=False)
        self.A_log = nn.Parameter(torch.linspace(1, 8, VALUE_HEADS).log())
        step = torch.logspace(-3, -0.5, VALUE_HEADS)
        self.dt_bias = nn.Parameter(step.expm1().log())
        self.norm = GatedNorm(STATE_DIM)
        self.out_proj = nn.Linear(values, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.silu(self.convolve(self.in_proj_qkv(x).float()))
        q, k, v = (part.unflatten(-1, (-1, STATE_DIM)).transpose(1, 2) for part in mixed.split(self.widths, dim=-1))
        beta = self.in_proj_b(x).float().sigmoid().transpose(1, 2)
        decay = -(self.A_log.exp() * F.softplus(self.in_proj_a(x).float() + self.dt_bias)).transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            q, k = (unit(t).repeat_interleave(VALUE_HEADS // KEY_HEADS, dim=1) for t in (q, k))
            y = gated_delta_rule(q, k, v, decay, beta)
        z = self.in_proj_z(x).unflatten(-1, (-1, STATE_DIM))
        return self.out_proj(self.norm(y.transpose(1, 2), z).flatten(2))

    def convolve(self, x: Tensor) -> Tensor:
        """Depthwise and causal, x [B, T, C]: a sum of TAPS shifted products."""
        padded, taps = F.pad(x, (0, 0, TAPS - 1, 0)), self.conv1d.weight[:, 0].unbind(-1)
        return torch.stack([padded[:, i : i + x.shape[1]] * tap for i, tap in enumerate(taps)]).sum(0)


def unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + EPS).rsqrt()


class GatedAttention(nn.Module):
    """Normed heads of which the first ROTARY_DIM dimensions are rotated; each head's output has a sigmoid gate."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * 2 * FULL_HEAD_DIM, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(HIDDEN, KV_HEADS * FULL_HEAD_DIM, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(HEADS * FULL_HEAD_DIM, HIDDEN, bias=False)
        self.q_norm, self.k_norm = ZeroCenteredNorm(FULL_HEAD_DIM), ZeroCenteredNorm(FULL_HEAD_DIM)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q, gate = self.q_proj(x).unflatten(-1, (HEADS, 2 * FULL_HEAD_DIM)).chunk(2, dim=-1)
        k, v = (p(x).unflatten(-1, (-1, FULL_HEAD_DIM)).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        q, k = (partly(t, rope) for t in (self.q_norm(q).transpose(1, 2), self.k_norm(k)))
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        y = attend(q, k, v, is_causal=True).transpose(1, 2)
        return self.o_proj((y * gate.sigmoid()).flatten(2))


def partly(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat((rotate(x[..., :ROTARY_DIM], *rope), x[..., ROTARY_DIM:]), dim=-1)


class HybridLayer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "full":
            self.self_attn = GatedAttention()
        else:
            self.linear_attn = GatedDeltaNet()
        self.full = kind == "full"
        self.mlp = GatedMlp(HIDDEN, FFN, bias=False)
        self.input_layernorm, self.post_attention_layernorm = ZeroCenteredNorm(HIDDEN), ZeroCenteredNorm(HIDDEN)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        normed = self.input_layernorm(x)
        x = x + (self.self_attn(normed, rope) if self.full else self.linear_attn(normed))
        return x + self.mlp(self.post_attention_layernorm(x))


class HybridLanguageModel(nn.Module):
    """`axes` [ROTARY_DIM / 2] is the layout of M-RoPE; the head is tied to the embedding."""

    def __init__(self, vocab: int, axes: Tensor) -> None:
        super().__init__()
        self.axes = axes
        self.embed_tokens = nn.Embedding(vocab, HIDDEN)
        self.layers = nn.ModuleList(HybridLayer(kind) for kind in LAYER_TYPES)
        self.norm = ZeroCenteredNorm(HIDDEN)

    def forward(
        self, ids: Tensor, features: list[Tensor], grid: tuple[int, int], image_start: int, logits_from: int
    ) -> Tensor:
        """ids [B, T]; one feature [B, h·w, HIDDEN] for `image_start` on."""
        x, stop = self.embed_tokens(ids), image_start + grid[0] * grid[1]
        x = torch.cat((x[:, :image_start], features[0].to(x.dtype), x[:, stop:]), dim=1)
        rope = rotary(text_positions(ids.shape[1], image_start, *grid), self.axes)
        for layer in self.layers:
            x = layer(x, rope)
        return F.linear(self.norm(x[:, logits_from:]), self.embed_tokens.weight)
