"""Runs of the graphs that `expose_graph` copied; each also writes the additional outputs to a directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qvl_runtime.sessions.openvino import OpenvinoEngine

from .trace_files import file_name

OUTPUTS_PER_RUN = 8
"""Number of additional outputs per session run: all vision streams of a page take almost 1 GB in a 3B model."""


class TracedRuns:
    """Wraps what runs a graph; has the `names` of the additional outputs, and their values of every run."""

    def __init__(self, runner: Any, names: Sequence[str], directory: Path) -> None:
        self._runner, self.names, self._directory = runner, list(names), directory
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def _save(self, names: Sequence[str], values: Iterable[np.ndarray]) -> None:
        for name, value in zip(names, values, strict=True):
            np.save(self._file(name, self._runs), value)

    def _file(self, name: str, run: int) -> Path:
        return self._directory / f"{file_name(name)}.run{run}.npy"

    def values(self, name: str) -> list[np.ndarray]:
        """Returns an additional output, one array per run."""
        return [np.load(self._file(name, run)) for run in range(self._runs)]


class TracedSession(TracedRuns):
    """An ONNX Runtime session."""

    def run(self, outputs: Sequence[str] | None, feeds: Any, options: Any = None) -> list[np.ndarray]:
        """Runs the session once per OUTPUTS_PER_RUN additional outputs; `outputs` None means those of the contract."""
        if outputs is None:
            outputs = [port.name for port in self._runner.get_outputs() if port.name not in self.names]
        found: list[np.ndarray] = []
        for start in range(0, max(len(self.names), 1), OUTPUTS_PER_RUN):
            names = self.names[start : start + OUTPUTS_PER_RUN]
            found = self._runner.run([*outputs, *names], feeds, options)
            self._save(names, found[len(outputs) :])
        self._runs += 1
        return found[: len(outputs)]

    def run_with_iobinding(self, binding: Any, *arguments: Any) -> None:
        """Runs the session with all additional outputs, which are bound after the engine's own."""
        for name in self.names:
            binding.bind_output(name, "cpu")
        self._runner.run_with_iobinding(binding, *arguments)
        last = binding.get_outputs()[-len(self.names) :]  # in binding order: ours after the engine's
        self._save(self.names, (value.numpy() for value in last))
        self._runs += 1


class TracedRequest(TracedRuns):
    """A request of OpenVINO, which computes all outputs of its graph in every run."""

    def infer(self, feeds: Any) -> Mapping[str, np.ndarray]:
        """Runs the request."""
        found: Mapping[str, np.ndarray] = self._runner.infer(feeds)
        self._save(self.names, (found[name] for name in self.names))
        self._runs += 1
        return found


def trace_runs(engine: Any, names: Mapping[str, Sequence[str]], directory: Path) -> tuple[TracedRuns, TracedRuns]:
    """Wraps what runs an engine's vision graph and its graph of prompts; returns both."""
    vision, language = engine.vision, engine.llm
    if isinstance(engine, OpenvinoEngine):
        vision.request = TracedRequest(vision.request, names["vision"], directory)
        language.requests[0] = TracedRequest(language.requests[0], names["llm"], directory)
        return vision.request, language.requests[0]
    vision.session = TracedSession(vision.session, names["vision"], directory)
    language.sessions[0] = TracedSession(language.sessions[0], names["llm"], directory)
    return vision.session, language.sessions[0]
