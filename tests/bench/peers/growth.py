"""How cost grows with pixels, prompt and threads, beside the operations and bytes that the shape asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from qvl_export import families
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families.spec import ModelSpec

from . import cost_model
from .checkpoint import SIZE, fitted
from .measure import Ready, Say, middle, take_turns
from .peer import Setting

GRID = 28
"""Pixels of an image token's side."""
SIZES = ((420, 588), (588, 840), (1176, 1680))
"""315, 630 and 2,520 image tokens, beside the 1,260 of every other run."""
PROMPTS = (512, 2048)
"""Characters of text in the prompt, which are as many tokens of the random tokenizer."""
NAMES = ("qvl-runtime int8", "qvl-runtime int4", "qvl-runtime fp16", "llama.cpp Q4_0", "OpenVINO GenAI int8")


def settings(setting: Setting, directory: Path) -> Iterator[tuple[str, Setting, int]]:
    """What is varied, the setting, and the number of image tokens."""
    tokens = SIZE[0] * SIZE[1] // GRID**2
    yield f"{tokens} image tokens", setting, tokens
    with Image.open(setting.pages["scan"]) as page:
        for size in SIZES:
            count, file = size[0] * size[1] // GRID**2, directory / f"{size[0]}x{size[1]}.png"
            fitted(page, size).save(file)
            yield f"{count} image tokens", replace(setting, pages={"scan": file}), count
    for length in PROMPTS:
        text = ("the quick brown fox jumps over it " * length)[:length]
        yield f"{length} more text tokens", replace(setting, text=text), tokens
    if setting.threads > 1:
        yield "1 thread", replace(setting, threads=1), tokens


def grow(
    entries: Sequence[Ready], checkpoint: Path, setting: Setting, rounds: int, before: Sequence[str], say: Say
) -> list[dict[str, Any]]:
    """A line for every peer of NAMES and every variation."""
    spec = families.read_spec(Checkpoint(checkpoint))
    rows = []
    for varied, changed, image_tokens in settings(setting, setting.warmup.parent):
        chosen = [
            Ready(each.peer, each.python, each.model, [], each.reason) for each in entries if each.peer.name in NAMES
        ]
        say(varied)
        list(take_turns(chosen, changed, rounds, before, say))
        rows += [line(entry, varied, image_tokens, spec) for entry in chosen if entry.runs]
    return sorted(rows, key=lambda row: NAMES.index(row["name"]))


def line(entry: Ready, varied: str, image_tokens: int, spec: ModelSpec) -> dict[str, Any]:
    """Medians, and the rates that follow from the model's shape."""
    run = {name: middle([each[name] for each in entry.runs]) for name in ("tower", "prompt", "speed", "peak_mb")}
    tokens = entry.runs[-1]["prompt_tokens"]
    work = {
        "tower": cost_model.tower(spec, image_tokens * spec.vision.spatial_merge_size**2),
        "prompt": cost_model.prompt(spec, tokens),
    }
    rates = {f"{name}_gflops": run[name] and cost.operations / run[name] / 1e9 for name, cost in work.items()}
    read = cost_model.token_bytes(spec, entry.peer.precision, tokens) * (run["speed"] or 0.0) / 1e9
    parts = {f"{name}_attention": cost.attention / cost.operations for name, cost in work.items()}
    return {
        "name": entry.peer.name,
        "varied": varied,
        "prompt_tokens": tokens,
        **run,
        **rates,
        **parts,
        "gb_per_second": read,
    }
