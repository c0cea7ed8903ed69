"""The stages of a checkpoint in transformers, with the names and the order of the bundle's graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qvl_runtime.positions import Grid, window_layout

from ...common.arrays import Floats, Ints
from ..answers.transformers_reference import NO_ARGUMENTS, HfAnswerer
from .trace_files import TraceInfo


def trace(
    path: str,
    messages: list[dict[str, Any]],
    out: Path,
    threads: int | None = None,
    template_args: Mapping[str, Any] = NO_ARGUMENTS,
) -> TraceInfo:
    """Writes every stage of one input to `out/NAME.npy`, with the names and token order of the bundle's graphs."""
    answerer = HfAnswerer(path, threads, template_args)
    inputs, stages = answerer.inputs(messages), list[str]()
    model = answerer.model.model
    order = _window_order(model.config.vision_config, inputs["image_grid_thw"].tolist())

    def save(name: str, value: Any) -> None:
        rows = value.detach().reshape(-1, value.shape[-1]).float().numpy()
        np.save(out / f"{name}.npy", _in_merge_order(rows, name, order))
        stages.append(name)

    for prefix, blocks in (("vision.blocks", model.visual.blocks), ("llm.layers", model.language_model.layers)):
        for index, block in enumerate(blocks):
            block.register_forward_hook(_saving_hook(save, f"{prefix}.{index}"))
    model.visual.merger.register_forward_hook(_saving_hook(save, "vision.merger"))
    save("preprocessing", inputs["pixel_values"])
    with answerer.torch.inference_mode():
        save("logits", answerer.model(**inputs).logits[0])
    image_tokens = np.flatnonzero(inputs["mm_token_type_ids"][0].numpy())
    return TraceInfo(stages, image_tokens.tolist(), inputs["input_ids"].shape[1])


def _saving_hook(save: Callable[[str, Any], None], name: str) -> Any:
    def hook(_: Any, __: Any, output: Any) -> None:
        save(name, output[0] if isinstance(output, tuple) else output)

    return hook


def _window_order(vision: Any, grids: list[list[int]]) -> Ints | None:
    """Returns the index of every patch (in merge order) in transformers' window order; None without windows."""
    side = getattr(vision, "window_size", 0) // (vision.patch_size * vision.spatial_merge_size)
    if not side:
        return None
    indices, count = [], 0
    for t, h, w in grids:
        slots = window_layout(Grid(1, h, w), vision.spatial_merge_size, side).scatter
        for _ in range(t):
            indices.append(np.argsort(np.argsort(slots)) + count)
            count += len(slots)
    return np.concatenate(indices)


def _in_merge_order(rows: Floats, name: str, order: Ints | None) -> Floats:
    """Reorders rows to merge order: transformers runs a tower with windows, including its merger, in window order."""
    if order is None or not name.startswith("vision."):
        return rows
    unit = len(order) // len(rows)  # patches per row: more than one after the merger
    return np.asarray(rows[order[::unit] // unit])
