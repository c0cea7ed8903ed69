"""What tensors are called: all namings that transformers and trainers write come down to that of transformers 4."""

from __future__ import annotations

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
"""Left within names by torch.compile, FSDP, activation checkpointing and Lightning Fabric."""
TRAINERS = ("base_model.model.", "module.")
"""Left in front of names by peft and by DataParallel or DeepSpeed."""
NESTED = ("model.model.", "model.lm_head.")
"""What begins so is a model within a module that calls it `model`."""
RENAMED = (
    ("model.visual.", "visual."),  # transformers 5
    ("model.language_model.model.", "model."),
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),  # transformers 5
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model."),  # the models without head, such as Qwen3VLModel
)
"""From what a name begins with to what its published one does; the first that fits."""


def published_name(name: str) -> str:
    """The name as the hub publishes it, whatever library or trainer wrote it."""
    bare = without_wrappers(name)
    for prefix, published in RENAMED:
        if bare.startswith(prefix):
            return published + bare.removeprefix(prefix)
    return bare


def nested_name(published: str) -> str:
    """The name as transformers 5 writes it: what `published_name` undoes."""
    if published.startswith("visual."):
        return f"model.{published}"
    return f"model.language_model.{published.removeprefix('model.')}" if published.startswith("model.") else published


def without_wrappers(name: str) -> str:
    """The name without what trainers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while name.startswith(TRAINERS):
        name = name.removeprefix(next(prefix for prefix in TRAINERS if name.startswith(prefix)))
    return name.removeprefix("model.") if name.startswith(NESTED) else name
