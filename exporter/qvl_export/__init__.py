"""Export Qwen-VL checkpoints to two ONNX graphs that run without PyTorch.

from qvl_export import ExportPlan, export
export(ExportPlan(checkpoint="Qwen/Qwen2.5-VL-3B-Instruct", out="bundle", precision="fp16"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qvl_runtime as _qvl_runtime  # noqa: F401 – first, as it turns off ONNX Runtime's telemetry

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .errors import CheckpointError, ConfigError, ExportError, HubError, OutputError
    from .exporting.pipeline import CalibrationOptions, EngineOptions, ExportPlan, Progress, QuantOptions, export

_PIPELINE = ("CalibrationOptions", "EngineOptions", "ExportPlan", "Progress", "QuantOptions", "export")
__all__ = [
    "CalibrationOptions",
    "CheckpointError",
    "ConfigError",
    "EngineOptions",
    "ExportError",
    "ExportPlan",
    "HubError",
    "OutputError",
    "Progress",
    "QuantOptions",
    "export",
]


def __getattr__(name: str) -> Any:
    """Imports the pipeline, and with it onnx, on first use: `qvl-export run` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import errors
    from .exporting import pipeline

    return getattr(pipeline if name in _PIPELINE else errors, name)
