"""Rotation: the same function in a basis where no channel is much larger than the others, so that codes fit better.

Hidden states of the language model are multiplied by an orthogonal matrix Q, and the values of each attention head by
a smaller one. Both are folded into the weights at export. RMSNorm commutes with Q once its gains are folded into the
linears after it. Source: QuaRot, arXiv 2404.00456, §3 and 4 (without the rotations at run time); SpinQuant,
arXiv 2405.16406, fig. 1, R1 and R2. With hidden states as rows, x' = x · Q:

- a linear that reads hidden states, after a norm of gains g: W' = W · diag(g) · Q;
- one that adds to them: W' = Qᵀ · W, b' = Qᵀ · b; the embedding: E' = E · Q;
- a tied head reads norm(x') · M with M = Qᵀ · diag(g) · Q, so that one table serves as embedding and as head.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from qvl_runtime.rotation import Rotation

from ..checkpoint.derived_tensors import Computed, whole
from ..checkpoint.directory import abbreviate
from ..checkpoint.safetensors_reader import Tensor
from ..common.arrays import Floats
from ..errors import ExportError
from ..families.spec import ModelSpec
from ..graph.text import HEAD_ROTATION
from ..graph.vision import feature_linears

SEED = 0
FINAL_NORM = "model.norm.weight"
UNTOUCHED = ("*.q_proj.bias", "*.k_proj.bias", "*.q_norm.weight", "*.k_norm.weight", "*.rotary_emb.inv_freq")
"""Tensors of layers that the rotation does not change."""


class WeightRotation(NamedTuple):
    """Rotations of a weight [outputs, inputs]; the gains of the norm `gain` are folded in before `inputs` applies."""

    outputs: Rotation | None = None
    inputs: Rotation | None = None
    gain: str | None = None

    def apply(self, weight: Floats, gain: Floats | None) -> Floats:
        """Rotates a weight or a bias, or some rows of a weight whose outputs are not rotated."""
        if gain is not None:
            weight = weight * gain
        if self.inputs:
            weight = self.inputs.apply(weight)
        return self.outputs.apply(weight.T).T if self.outputs else weight


def rotated(tensors: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Returns the checkpoint's tensors in the basis of `spec`; tensors that change are computed when they are read.

    Raises ExportError for decoder tensors with no known rotation, such as quantized ones.
    """
    if spec.text.rotation_seed is None:
        return dict(tensors)
    rotations = weight_rotations(spec, spec.text.rotation_seed)
    _check_known(tensors, {*rotations, *gains(rotations), FINAL_NORM})
    found = {**tensors}
    for name, rotation in rotations.items():
        if name in tensors and (rotation.gain is None or rotation.gain in tensors):
            found[name] = _rotated(tensors[name], rotation, tensors.get(rotation.gain or ""))
    for name in {*gains(rotations), FINAL_NORM} & set(tensors):
        found[name] = Computed(name, tensors[name], tensors[name].shape, np.ones_like, by_row=True)
    if spec.text.tied and FINAL_NORM in tensors:
        found[f"{HEAD_ROTATION}.weight"] = _head_rotation(tensors[FINAL_NORM], rotations["model.embed_tokens.weight"])
    return found


def gains(rotations: Mapping[str, WeightRotation]) -> set[str]:
    """The norms whose gains are folded into linears."""
    return {rotation.gain for rotation in rotations.values() if rotation.gain}


def weight_rotations(spec: ModelSpec, seed: int) -> dict[str, WeightRotation]:
    """The rotation of every tensor that changes except norms, by name."""
    stream, heads = Rotation(spec.text.hidden_size, seed), Rotation(spec.text.head_dim, seed)
    rotations = {"model.embed_tokens.weight": WeightRotation(inputs=stream)}
    for layer in (f"model.layers.{index}" for index in range(spec.text.num_layers)):
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        before, between = f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"
        rotations |= {f"{attention}.{x}_proj.weight": WeightRotation(None, stream, before) for x in "qk"}
        rotations[f"{attention}.v_proj.weight"] = WeightRotation(heads, stream, before)
        rotations[f"{attention}.v_proj.bias"] = WeightRotation(heads)
        rotations[f"{attention}.o_proj.weight"] = WeightRotation(stream, heads)
        rotations |= {f"{mlp}.{x}_proj.weight": WeightRotation(None, stream, between) for x in ("gate", "up")}
        rotations[f"{mlp}.down_proj.weight"] = WeightRotation(stream)
    if not spec.text.tied:
        rotations["lm_head.weight"] = WeightRotation(None, stream, FINAL_NORM)
    names = feature_linears(spec.vision)
    return rotations | {f"{name}.{part}": WeightRotation(stream) for name in names for part in ("weight", "bias")}


def _check_known(tensors: Mapping[str, Tensor], known: set[str]) -> None:
    decoder = {name for name in tensors if name.startswith("model.")}
    unknown = [name for name in decoder - known if not any(fnmatch.fnmatchcase(name, pattern) for pattern in UNTOUCHED)]
    if unknown:
        raise ExportError(
            f"{len(unknown)} tensors cannot be rotated: {abbreviate(unknown)}",
            where=tensors[min(unknown)].file.parent,
            fix="use --no-rotate",
        )


def _rotated(source: Tensor, rotation: WeightRotation, gain: Tensor | None) -> Computed:
    def make(weight: Floats) -> Floats:
        return rotation.apply(weight, None if gain is None else whole(gain))

    return Computed(source.name, source, source.shape, make, by_row=rotation.outputs is None)


def _head_rotation(gain: Tensor, table: WeightRotation) -> Computed:
    """The matrix M, which is symmetric."""
    size = gain.shape[0]
    rotation = WeightRotation(table.inputs, table.inputs)
    return Computed(
        f"{HEAD_ROTATION}.weight",
        gain,
        (size, size),
        lambda values: rotation.apply(np.diag(values), None),
        by_row=False,
    )
