"""A stage over samples, in the engine that will run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .work import Floats, Sample

if TYPE_CHECKING:
    from qvl_runtime.onnx_runtime import ort

OUTPUT = "hidden_out"


def open_session(path: Path, threads: int | None = None) -> ort.InferenceSession:
    """ONNX Runtime as the runtime sets it up; raises InstallError where there is none."""
    from qvl_runtime.onnx_runtime import ort
    from qvl_runtime.sessions.cpu import session_options

    return ort.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, sample: Sample, outputs: list[str]) -> list[Floats]:
    """Some outputs of a stage for one page."""
    feeds = {"hidden": sample.hidden, **sample.feeds}
    taken = {port.name: _as(feeds[port.name], port.type) for port in session.get_inputs()}
    found: list[Floats] = session.run(outputs, taken)
    return found


def through(session: ort.InferenceSession, sample: Sample) -> Floats:
    """What a stage gives the next one."""
    return run(session, sample, [OUTPUT])[0]


def _as(value: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """A cache of float16 where the stage has one."""
    return value.astype(np.float16) if kind == "tensor(float16)" else value
