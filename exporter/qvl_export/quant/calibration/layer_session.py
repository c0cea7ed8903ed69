"""Runs a stage on samples, in the engine of the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...common.arrays import Floats
from ...common.threads import thread_limit
from .work_dir import Sample

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

OUTPUT = "hidden_out"


def open_session(path: Path, threads: int | None = None) -> ort.InferenceSession:
    """Opens a session as the runtime does, on `threads` threads or the thread limit; InstallError without an engine."""
    from qvl_runtime.sessions import cpu

    return cpu.open_session(path, cpu.session_options(threads or thread_limit()))


def run(session: ort.InferenceSession, sample: Sample, outputs: list[str]) -> list[Floats]:
    """Returns the requested outputs of a stage for one page."""
    feeds = {"hidden": sample.hidden, **sample.feeds}
    taken = {port.name: _as(feeds[port.name], port.type) for port in session.get_inputs()}
    found: list[Floats] = session.run(outputs, taken)
    return found


def through(session: ort.InferenceSession, sample: Sample) -> Floats:
    """Returns the stage's output hidden states for one page, the input of the next stage."""
    return run(session, sample, [OUTPUT])[0]


def _as(value: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """Converts to float16 if the stage's input has that type, as a KV cache can."""
    return value.astype(np.float16) if kind == "tensor(float16)" else value
