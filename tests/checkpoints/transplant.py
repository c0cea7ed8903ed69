"""Weights of a Qwen3-VL reader as the beginning of a Qwen3.5 reader.

`reference_qwen3`'s language model attends to the page in its layer 2 alone, so that layer becomes the full attention;
the linears' MLPs come from the layers that they replace. Layers and blocks without a counterpart begin as no change.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .hybrid import FULL_HEAD_DIM
from .language import HEAD_DIM, HEADS

ORIGIN = {0: 0, 1: 1, 3: 2, 4: 3}
"""Layer of the hybrid model: layer of the other."""
SMALL = 0.002


def transplant(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`own`, the state dict of a Qwen3.5 reader, with those tensors of a Qwen3-VL reader that have a use in it."""
    result, language = {name: tensor.clone() for name, tensor in own.items()}, "model.language_model."
    for name in own:
        if name.startswith("model.visual.") and name in source:
            result[name] = source[name].float()
    merge_deepstack(source, result)
    result[f"{language}embed_tokens.weight"] = source[f"{language}embed_tokens.weight"].float()
    result[f"{language}norm.weight"] = source[f"{language}norm.weight"].float() - 1
    for layer, origin in ORIGIN.items():
        ours, theirs = f"{language}layers.{layer}.", f"{language}layers.{origin}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            result[f"{ours}{norm}.weight"] = source[f"{theirs}{norm}.weight"].float() - 1
        for name in ("gate_proj", "up_proj", "down_proj"):
            result[f"{ours}mlp.{name}.weight"] = source[f"{theirs}mlp.{name}.weight"].float()
        if f"{ours}self_attn.q_proj.weight" in own:
            attention(source, result, f"{theirs}self_attn.", f"{ours}self_attn.")
    for name in own:
        if name.startswith(f"{language}layers.2.") and name.endswith(("out_proj.weight", "down_proj.weight")):
            result[name] = result[name] * 0.1
    return result


def merge_deepstack(source: Mapping[str, Tensor], result: dict[str, Tensor]) -> None:
    """The last merger for DeepStack becomes the merger; its norm is over four patches, so their mean is taken.

    The last block, which it did not see, changes nothing at first.
    """
    theirs, ours = "model.visual.deepstack_merger_list.1.", "model.visual.merger."
    for name in ("linear_fc1.weight", "linear_fc1.bias", "linear_fc2.weight", "linear_fc2.bias"):
        result[ours + name] = source[theirs + name].float()
    for name in ("norm.weight", "norm.bias"):
        result[ours + name] = source[theirs + name].float().view(4, -1).mean(0)
    for name in ("attn.proj.weight", "attn.proj.bias", "mlp.linear_fc2.weight", "mlp.linear_fc2.bias"):
        result[f"model.visual.blocks.3.{name}"] = result[f"model.visual.blocks.3.{name}"] * 0.1


def attention(source: Mapping[str, Tensor], result: dict[str, Tensor], theirs: str, ours: str) -> None:
    """The same attention in the rotated quarter of wider heads: gates begin at one half, so the output is doubled."""
    gain = 2**-0.5
    for name in ("q_norm", "k_norm"):
        wide = torch.full((FULL_HEAD_DIM,), gain)
        wide[:HEAD_DIM] = source[f"{theirs}{name}.weight"].float() * gain
        result[f"{ours}{name}.weight"] = wide - 1
    for name in ("q_proj", "k_proj", "v_proj"):
        narrow = source[f"{theirs}{name}.weight"].float().unflatten(0, (-1, HEAD_DIM))
        wide = torch.randn(narrow.shape[0], FULL_HEAD_DIM * (2 if name == "q_proj" else 1), narrow.shape[2]) * SMALL
        wide[:, :HEAD_DIM] = narrow
        wide[:, FULL_HEAD_DIM:] = 0
        result[f"{ours}{name}.weight"] = wide.flatten(0, 1)
    narrow = source[f"{theirs}o_proj.weight"].float().unflatten(1, (HEADS, HEAD_DIM))
    wide = torch.randn(narrow.shape[0], HEADS, FULL_HEAD_DIM) * SMALL
    wide[..., :HEAD_DIM] = 2 * narrow
    result[f"{ours}o_proj.weight"] = wide.flatten(1)
