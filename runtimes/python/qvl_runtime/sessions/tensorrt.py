"""Target `tensorrt`: engines on a Jetson or a server GPU; decoding launches one CUDA graph per token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.extras import install_fix
from ..errors import InstallError
from ..manifest import Manifest
from ._tensorrt.session import Library, TrtEngine
from .portable import cache_state

__all__ = ["cache_state", "open"]


def open(bundle: Path, manifest: Manifest, threads: int | None) -> TrtEngine:
    """Loads the engines; raises InstallError for missing packages, EngineError without a GPU, and BundleError if
    `build_engines.sh` was not run yet."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise InstallError(
            "TensorRT is not installed", fix=f"{install_fix('tensorrt')}; on a Jetson, JetPack includes it"
        ) from error
    return TrtEngine(bundle, manifest, Library(trt, "TensorRT", _make_context, record=True))


def _make_context(engine: Any, file: str) -> Any:
    return engine.create_execution_context()
