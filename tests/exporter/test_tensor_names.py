"""Tensor names of every library and trainer."""

from __future__ import annotations

import pytest

from qvl_export.checkpoint.tensor_names import nested_name, published_name


@pytest.mark.parametrize("name", ["visual.merger.ln_q.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_names(name: str) -> None:
    assert published_name(nested_name(name)) == name
