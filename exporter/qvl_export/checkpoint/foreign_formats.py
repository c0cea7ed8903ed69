"""Recognizes unsupported checkpoints of other tools by their files and names, and suggests what to export instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qvl_runtime.manifest import MANIFEST

from ..errors import CheckpointError, ConfigError

FLOAT_RELEASE = "export the bfloat16 or float16 release, or one quantized by GPTQ or AWQ"
PICKLED = (
    "convert them in transformers: from_pretrained(…), for Qwen-VL with trust_remote_code=True, then "
    "save_pretrained(…, safe_serialization=True)"
)
GGUF = "export the safetensors release that it was converted from"
MLX = "export the original release that it was converted from"


def why_no_weights(files: Iterable[str]) -> tuple[str, str]:
    """Returns what a checkpoint's files contain instead of `model.safetensors`, and the fix."""
    names = set(files)
    if any(name.startswith("pytorch_model") and ".bin" in name for name in names):
        return ": there are only pickled weights (.bin)", PICKLED
    if any(name.endswith(".gguf") for name in names):
        return ": there are only GGUF files, which are llama.cpp's", GGUF
    if any(name.endswith(".distcp") or name == "zero_to_fp32.py" for name in names):
        return ": there is only the state of a training", "save the model with save_pretrained, and export that"
    if any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        return ", and so is model.safetensors.index.json", "download the index too"
    return "", "checkpoints must be safetensors; download all shards"


def why_no_config(files: Iterable[str]) -> tuple[str, str]:
    """Returns what a directory without `config.json` is, and the fix."""
    names = set(files)
    if MANIFEST in names:
        return "this is a bundle, not a checkpoint", "export the checkpoint that it was exported from"
    if any(name.endswith(".gguf") for name in names):
        return "GGUF files are llama.cpp's", GGUF
    return "not a checkpoint directory", ""


def refuse_mlx_config(config: dict[str, object], where: Path) -> None:
    """Raises ConfigError for weights quantized by MLX, which have a configuration key of their own."""
    if isinstance(config.get("quantization"), dict):
        raise ConfigError("weights quantized by MLX are not supported", where=where, fix=FLOAT_RELEASE)


def refuse_mlx_names(names: Iterable[str], where: Path) -> None:
    """Raises CheckpointError for a conversion to MLX, which also transposes kernels."""
    if any(name.startswith(("vision_tower.", "model.vision_tower.")) for name in names):
        raise CheckpointError("is a conversion for MLX (vision_tower.…)", where=where, fix=MLX)
