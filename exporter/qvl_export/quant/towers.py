"""The two towers as sequences of stages for calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..checkpoint.safetensors_reader import Tensor
from ..families.spec import ModelSpec
from ..graph.layer_graphs import decoder_stage, decoder_stages, vision_stage, vision_stages
from ..targets import Target
from .calibration.tower import Tower
from .schemes import Scheme

SchemeOf = Callable[[str], Scheme | None]
Tensors = Mapping[str, Tensor]


def vision_tower(spec: ModelSpec, target: Target, tensors: Tensors, scheme: SchemeOf) -> Tower:
    """Stages of the vision tower: patch embedding, blocks, merger."""
    return Tower(
        "vision",
        tuple(vision_stages(spec.vision)),
        lambda name, formats: vision_stage(spec, target, name, formats),
        target,
        tensors,
        scheme,
        per_tensor=target.per_tensor_activations,
    )


def llm_tower(spec: ModelSpec, target: Target, tensors: Tensors, scheme: SchemeOf) -> Tower:
    """Stages of the language model: its decoder layers."""
    stages = tuple(decoder_stages(spec.text))
    return Tower(
        "llm", stages, lambda name, formats: decoder_stage(spec.text, target, name, formats), target, tensors, scheme
    )
