"""Tensor names: maps all names that transformers and trainers write to those of transformers 4."""

from __future__ import annotations

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
"""Parts that torch.compile, FSDP, activation checkpointing and Lightning Fabric leave within names."""
TRAINERS = ("base_model.model.", "module.")
"""Prefixes that peft and DataParallel or DeepSpeed leave."""
NESTED = ("model.model.", "model.lm_head.")
"""Prefixes of names of a model that is nested in a module as `model`."""
RENAMED = (
    ("model.visual.", "visual."),  # transformers 5
    ("model.language_model.model.", "model."),
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),  # transformers 5
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model."),  # models without a head, such as Qwen3VLModel
)
"""(prefix, prefix of the published name); the first match counts."""


def published_name(name: str) -> str:
    """Returns a tensor's name as published on the hub, whatever library or trainer wrote it."""
    bare = without_wrappers(name)
    for prefix, published in RENAMED:
        if bare.startswith(prefix):
            return published + bare.removeprefix(prefix)
    return bare


def nested_name(published: str) -> str:
    """Returns the name that transformers 5 writes, the inverse of `published_name`."""
    if published.startswith("visual."):
        return f"model.{published}"
    return f"model.language_model.{published.removeprefix('model.')}" if published.startswith("model.") else published


def without_wrappers(name: str) -> str:
    """Returns the name without the prefixes and parts that trainers add."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(TRAINERS):
        name = name.removeprefix(next(prefix for prefix in TRAINERS if name.startswith(prefix)))
    return name.removeprefix("model.") if name.startswith(NESTED) else name
