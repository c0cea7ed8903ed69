"""Target `tensorrt`: engines on a Jetson or a server GPU; decoding launches one CUDA graph per token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.extras import CUDA_PYTHON, import_failure, install_fix
from ..manifest import Manifest
from ._tensorrt.cuda_driver import Gpu
from ._tensorrt.engine import check_built
from ._tensorrt.session import Library, TrtEngine
from .portable import cache_state

__all__ = ["cache_state", "check", "open"]
LIBRARY = "TensorRT"


def open(bundle: Path, manifest: Manifest, threads: int | None) -> TrtEngine:
    """Loads the engines; raises InstallError for missing packages, EngineError without a GPU, and BundleError if
    `build_engines.sh` was not run yet."""
    check_built(bundle, manifest, release(manifest))
    return TrtEngine(bundle, manifest, Library(_library(manifest), LIBRARY, _make_context, record=True))


def check(bundle: Path, manifest: Manifest) -> None:
    """Raises the errors of `open` that need no engine to be loaded."""
    check_built(bundle, manifest, release(manifest))
    _library(manifest)
    Gpu()


def release(manifest: Manifest) -> str:
    """Returns the TensorRT that the export named, such as "TensorRT 10.3 or later"; empty if it named none."""
    options = manifest.provenance.options
    if jetpack := options.get("jetpack"):
        return f"the {LIBRARY} of JetPack {jetpack}"
    version = options.get("tensorrt_version")
    return f"{LIBRARY} {version} or later" if version else ""


def _library(manifest: Manifest) -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise import_failure(error, "tensorrt", LIBRARY, _fix(manifest)) from error
    return tensorrt


def _fix(manifest: Manifest) -> str:
    """The advice for a missing TensorRT: an engine is read by the release that built it."""
    if named := release(manifest):
        return f'install the release that built the engines: {named}; and pip install "{CUDA_PYTHON}"'
    return f"{install_fix('tensorrt')}; on a Jetson, JetPack includes it"


def _make_context(engine: Any, file: str) -> Any:
    return engine.create_execution_context()
