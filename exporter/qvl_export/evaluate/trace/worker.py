"""One model runs one input and writes its intermediate values: `python -m qvl_export.evaluate.trace.worker`.

A bundle runs as copied by `expose_graph`: its own graphs with additional outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
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

OUTPUTS_PER_RUN = 8
"""Number of additional outputs per session run: all vision streams of a page take almost 1 GB in a 3B model."""
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


class TracingSession:
    """An ONNX Runtime session that writes the additional outputs of every run to a directory."""

    def __init__(self, session: Any, names: Sequence[str], directory: Path) -> None:
        self._session, self.names, self._directory = session, list(names), directory
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str] | None, feeds: Any, options: Any = None) -> list[np.ndarray]:
        """Runs the session once per OUTPUTS_PER_RUN additional outputs; `outputs` None means those of the contract."""
        if outputs is None:
            outputs = [port.name for port in self._session.get_outputs() if port.name not in self.names]
        found: list[np.ndarray] = []
        for start in range(0, max(len(self.names), 1), OUTPUTS_PER_RUN):
            names = self.names[start : start + OUTPUTS_PER_RUN]
            found = self._session.run([*outputs, *names], feeds, options)
            self._save(names, found[len(outputs) :])
        self._runs += 1
        return found[: len(outputs)]

    def run_with_iobinding(self, binding: Any, *arguments: Any) -> None:
        for name in self.names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, *arguments)
        last = binding.get_outputs()[-len(self.names) :]  # in binding order: ours after the engine's
        self._save(self.names, (value.numpy() for value in last))
        self._runs += 1

    def _save(self, names: Sequence[str], values: Iterable[np.ndarray]) -> None:
        for name, value in zip(names, values, strict=True):
            np.save(self._file(name, self._runs), value)

    def _file(self, name: str, run: int) -> Path:
        return self._directory / f"{file_name(name)}.run{run}.npy"

    def values(self, name: str) -> list[np.ndarray]:
        """Returns an additional output, one array per run."""
        return [np.load(self._file(name, run)) for run in range(self._runs)]


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
        engine = model.engine
        vision, language = engine.vision, engine.llm
        vision.session = TracingSession(vision.session, names["vision"], directory)
        language.sessions[0] = TracingSession(language.sessions[0], names["llm"], directory)
        prompt: Prompt = model.prompt(messages, 1, template_args=job.template_args)
        logits = model.decoder.prefill(prompt, np.arange(len(prompt.ids)), _run())
        return _save(out, model, prompt, vision.session, language.sessions[0], logits)


def _run() -> Any:
    from qvl_runtime.answers.generate import GenerationStats

    return GenerationStats()


def _save(
    out: Path, model: Any, prompt: Prompt, vision: TracingSession, language: TracingSession, logits: np.ndarray
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
