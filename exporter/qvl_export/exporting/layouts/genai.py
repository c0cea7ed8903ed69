"""Layout `genai`: a directory for ONNX Runtime GenAI, whose graphs compute their own indices.

The weights stay where the bundle's graphs put them; the three graphs of this layout point to the same data files, so
that a tied table is stored once. GenAI reads `genai_config.json` (see its `src/config.h`), the image transforms of
onnxruntime-extensions in `processor_config.json`, and the tokenizer's files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_runtime.manifest import GENAI_CONFIG, ImageGeometry, Manifest

from ... import families
from ...bundle.files import save_graph
from ...checkpoint.directory import Checkpoint
from ...common.atomic_output import OutputKind
from ...errors import ConfigError, ExportError
from ...families.spec import ModelSpec, TextSpec
from ...graph import genai_graphs as split
from ...graph import weights
from ...graph.build import Graph
from ...quant.precision import HYBRID, INT4, INT8
from ..resolved_export import ResolvedExport

OUTPUT_KIND = OutputKind("a directory for ONNX Runtime GenAI", (GENAI_CONFIG,))
TYPES = families.genai_types()
"""GenAI's model type of each family; families of one type have the same positions and tokens of images."""
TOWERS = {"vision", "llm"}
SESSION_OPTIONS: dict[str, Any] = {
    "log_id": "onnxruntime-genai",
    "session.force_spinning_stop": "1",  # three sessions share the cores
    "enable_mem_pattern": False,  # it would keep memory for every page size seen, without being faster
    "provider_options": [],
}
"""Session options of all three graphs: the vision and embedding sections have none of their own."""


def check(resolved: ResolvedExport) -> None:
    """Raises ExportError for families, targets, precisions and tokenizers that the layout does not support."""
    family, target = resolved.spec.family, resolved.plan.target
    if family not in TYPES:
        raise ExportError(f"--layout genai does not support family {family}", fix=f"supported: {', '.join(TYPES)}")
    if target != "cpu":
        raise ExportError(f"--layout genai does not support target {target}", fix="use --target cpu")
    if set(resolved.precisions) != TOWERS:
        raise ExportError(
            "--layout genai takes a single graph of the language model", fix=f"use {INT8} or {INT4} instead of {HYBRID}"
        )
    _vision_start(resolved)


def finish(directory: Path, resolved: ResolvedExport, graphs: Mapping[str, Graph], manifest: Manifest) -> None:
    """Replaces the bundle's two graphs by three, and writes the tokenizer and configuration files."""
    stored = {name: tensor for graph in graphs.values() for name, tensor in weights.stored(graph).items()}
    formats = {name: format for graph in graphs.values() for name, format in graph.formats.items()}
    for name in graphs:
        (directory / f"{name}.onnx").unlink()
    for graph in split.build(resolved.spec, resolved.targets["vision"], resolved.targets["llm"], formats):
        weights.share(graph, stored)
        save_graph(graph, directory)
    _write_tokenizer(directory, resolved.checkpoint)
    _write(directory / "processor_config.json", processor_config(resolved.spec.image))
    _write(directory / GENAI_CONFIG, genai_config(resolved.spec, _vision_start(resolved), _padding(resolved)))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def _write_tokenizer(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes `tokenizer_config.json`, which names the tokenizer's class, and puts the chat template into it."""
    config = checkpoint.json("tokenizer_config.json") or {"tokenizer_class": "Qwen2Tokenizer"}
    template = (directory / "chat_template.jinja").read_text("utf-8")
    _write(directory / "tokenizer_config.json", {**config, "chat_template": template})


def _vision_start(resolved: ResolvedExport) -> int:
    """Returns the id of the token that starts an image; raises ConfigError if the tokenizer has none.

    GenAI searches prompts for its text and inserts the image tokens after it.
    """
    start = resolved.spec.image_tokens.start
    added = json.loads(resolved.texts.tokenizer).get("added_tokens") or []
    found = [token["id"] for token in added if token["content"] == start]
    if not found:
        raise ConfigError(f"has no token {start}", where=resolved.checkpoint.directory / "tokenizer.json")
    return int(found[0])


def processor_config(image: ImageGeometry) -> dict[str, Any]:
    """Returns the image transforms of the runtime's preprocessing in the terms of onnxruntime-extensions."""
    patches = {"patch_size": image.patch_size, "merge_size": image.spatial_merge_size}
    bounds = {"smart_resize": 1, "min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
    steps: dict[str, dict[str, Any]] = {
        "DecodeImage": {"color_space": "RGB"},
        "ConvertRGB": {},
        "Resize": {"width": image.factor, "height": image.factor, "interpolation": "CUBIC", **bounds, **patches},
        "Rescale": {"rescale_factor": 1 / 255},
        "Normalize": {"mean": image.image_mean, "std": image.image_std, "qwen2_5_vl": 1},
        "PatchImage": {"temporal_patch_size": image.temporal_patch_size, **patches},
    }
    transforms = [{"operation": {"name": kind.lower(), "type": kind, "attrs": attrs}} for kind, attrs in steps.items()]
    return {"processor": {"name": "qwen2_5_image_processor", "transforms": transforms}}


def _padding(resolved: ResolvedExport) -> int:
    """Returns the padding token, which GenAI skips in positions wherever it occurs in a prompt."""
    for config in (resolved.checkpoint.json("generation_config.json") or {}, resolved.checkpoint.config):
        if type(token := config.get("pad_token_id")) is int:
            return token
    return resolved.spec.tokens.stop[-1]


def genai_config(spec: ModelSpec, vision_start: int, padding: int) -> dict[str, Any]:
    """Returns `genai_config.json`; GenAI allocates rows of embeddings and features with width `hidden_size`."""
    return {
        "model": {
            "type": TYPES[spec.family],
            "vocab_size": spec.text.vocab_size,
            "context_length": spec.max_positions,
            "eos_token_id": spec.tokens.stop,
            "pad_token_id": padding,
            "image_token_id": spec.tokens.image,
            "video_token_id": spec.tokens.video,
            "vision_start_token_id": vision_start,
            "vision": _vision(spec),
            "embedding": {
                "filename": "embedding.onnx",
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "decoder": _decoder(spec.text),
        },
        "search": {
            "do_sample": False,
            "max_length": spec.max_positions,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
        },
    }


def _vision(spec: ModelSpec) -> dict[str, Any]:
    return {
        "filename": "vision.onnx",
        "config_filename": "processor_config.json",
        "spatial_merge_size": spec.image.spatial_merge_size,
        "patch_size": spec.image.patch_size,
        "tokens_per_second": spec.video.tokens_per_second or 1.0,
        "inputs": {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
        "outputs": {"image_features": "image_features"},
    }


def _decoder(spec: TextSpec) -> dict[str, Any]:
    return {
        "filename": "text.onnx",
        "session_options": SESSION_OPTIONS,
        "hidden_size": split.row_width(spec),
        "head_size": spec.head_dim,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_key_value_heads,
        "num_hidden_layers": spec.num_layers,
        "inputs": {
            "inputs_embeds": "inputs_embeds",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
