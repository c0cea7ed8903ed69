"""Tensor names of every library and trainer."""

from __future__ import annotations

import pytest

from qvl_export.checkpoint.tensor_names import nested_name, published_name


@pytest.mark.parametrize("name", ["visual.merger.ln_q.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_names(name: str) -> None:
    assert published_name(nested_name(name)) == name


@pytest.mark.parametrize(
    ("written", "published"),
    [
        ("model.visual.patch_embed.proj.weight", "visual.patch_embed.proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.lm_head.weight", "lm_head.weight"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("language_model.norm.weight", "model.norm.weight"),
        ("base_model.model.module.model.norm.weight", "model.norm.weight"),
        (
            "_forward_module._orig_mod.model.layers.3._fsdp_wrapped_module.mlp.up_proj.weight",
            "model.layers.3.mlp.up_proj.weight",
        ),
        ("model.model.norm.weight", "model.norm.weight"),
        ("model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_names_of_libraries_and_trainers(written: str, published: str) -> None:
    assert published_name(written) == published
