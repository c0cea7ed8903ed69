"""One model runs one input and writes its intermediate values: `python -m qvl_export.evaluate.trace.worker`.

A bundle runs as copied by `expose_graph`: its own graphs with additional outputs.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qvl_runtime import load
from qvl_runtime.manifest import Manifest
from qvl_runtime.prompts.prompt import Prompt
from qvl_runtime.rotation import Rotation

from ...common.scratch import scratch
from ...jobs.worker import run_job
from ..answers.answerers import HF
from .expose_graph import expose
from .trace_files import TRACE_FILE, TraceInfo, file_name
from .traced_runs import TracedRuns, trace_runs

FEATURES, LOGITS, PIXELS = "vision.merger", "logits", "preprocessing"


class TraceJob(msgspec.Struct, frozen=True):
    """Runs `prompt` with `images` and writes one array per stage to `out`; `into` adds the linears of a stage.

    The bundle is copied to the empty directory `copy`, by default to a system temporary directory.
    """

    model: str
    engine: str
    images: tuple[str, ...]
    prompt: str
    out: str
    threads: int | None = None
    into: str | None = None
    template_args: dict[str, Any] = {}
    copy: str = ""


def run(job: TraceJob) -> TraceInfo:
    """Writes every stage to `out/NAME.npy` [tokens, features]; returns their names and the image tokens."""
    out = Path(job.out)
    parts = [*({"type": "image", "image": image} for image in job.images), {"type": "text", "text": job.prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if job.engine == HF:
        from .transformers_trace import trace

        return trace(job.model, messages, out, job.threads, job.template_args)
    with nullcontext(Path(job.copy)) if job.copy else scratch() as directory:
        names = expose(Path(job.model), job.into, directory)
        model: Any = load(directory, job.threads, prune="off")  # stages of two bundles have the same rows
        vision, language = trace_runs(model.engine, names, directory)
        prompt: Prompt = model.prompt(messages, 1, template_args=job.template_args)
        logits = model.decoder.prefill(prompt, np.arange(len(prompt.ids)), _run())
        return _save(out, model, prompt, vision, language, logits)


def _run() -> Any:
    from qvl_runtime.answers.generate import GenerationStats

    return GenerationStats()


def _save(
    out: Path, model: Any, prompt: Prompt, vision: TracedRuns, language: TracedRuns, logits: np.ndarray
) -> TraceInfo:
    """Writes the stages in chain order; concatenates the images and the chunks of a prompt."""
    placed = prompt.placed
    features = [FEATURES] if placed else []
    stages = [*([PIXELS] if placed else []), *(vision.names if placed else []), *features, *language.names, LOGITS]
    for name in stages:
        if name == PIXELS:
            values = [item.patches(model.manifest.image).pixel_values for item in placed]
        elif name == FEATURES:
            values = [model.image_features(item) for item in placed]
        else:
            values = [logits] if name == LOGITS else (language if name in language.names else vision).values(name)
        rows = np.concatenate([value.reshape(-1, value.shape[-1]) for value in values])
        np.save(out / f"{file_name(name)}.npy", _checkpoint_basis(name, rows, model.manifest).astype(np.float32))
    tokens = [position for item in placed for position in range(item.span.start, item.span.end)]
    return TraceInfo(stages, tokens, len(prompt.ids))


def _checkpoint_basis(name: str, rows: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Rotates hidden states of a rotated bundle back to the checkpoint's basis; returns other values unchanged."""
    llm = manifest.llm
    hidden = name == FEATURES or (name.startswith("llm.") and name.endswith(("o_proj", "down_proj", *"0123456789")))
    if llm.rotation_seed is None or not hidden:
        return rows
    return Rotation(llm.hidden_size, llm.rotation_seed).undo(rows)


def _run_and_describe(job: TraceJob) -> None:
    (Path(job.out) / TRACE_FILE).write_bytes(msgspec.json.encode(run(job)))


if __name__ == "__main__":
    sys.exit(run_job(TraceJob, _run_and_describe))
