"""Runs a Qwen-VL bundle without PyTorch.

from qvl_runtime import load
model = load("bundle")
print(model.generate([{"role": "user", "content": [{"type": "image", "image": "page.png"},
                                                   {"type": "text", "text": "Read the text."}]}]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .common import telemetry as _telemetry  # noqa: F401 – first, before anything imports ONNX Runtime
from .errors import (
    BundleError,
    EngineError,
    InstallError,
    MediaError,
    PromptError,
    QvlError,
    SlowProductsWarning,
    TruncatedAnswerWarning,
)

if TYPE_CHECKING:
    from .model import Model, load

__version__ = "0.1.0"
__all__ = [
    "BundleError",
    "EngineError",
    "InstallError",
    "MediaError",
    "Model",
    "PromptError",
    "QvlError",
    "SlowProductsWarning",
    "TruncatedAnswerWarning",
    "load",
]


def __getattr__(name: str) -> Any:
    """Imports `load` and `Model`, and with them numpy and the engine, only on first access."""
    if name in ("Model", "load"):
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
