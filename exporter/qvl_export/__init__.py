"""Export Qwen-VL checkpoints to two ONNX graphs that run without PyTorch.

from qvl_export import ExportPlan, export
export(ExportPlan(checkpoint="Qwen/Qwen2.5-VL-3B-Instruct", out="bundle", precision="fp16"))
"""

from __future__ import annotations

__version__ = "0.1.0"

from .errors import CheckpointError, ConfigError, ExportError, HubError, OutputError
from .pipeline import ExportPlan, Progress, export

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ExportError",
    "ExportPlan",
    "HubError",
    "OutputError",
    "Progress",
    "export",
]
