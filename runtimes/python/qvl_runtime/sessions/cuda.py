"""Target `cuda`: runs the graphs in ONNX Runtime on an NVIDIA GPU, with the KV cache in GPU memory.

Like `cpu`, with another provider. If CUDA cannot be loaded, ONNX Runtime silently computes on the CPU; here that is an
error that says what is missing.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from .._onnxruntime.library import ort
from ..common.extras import install_fix
from ..errors import InstallError
from ..manifest import Manifest
from . import cpu
from .cpu import CpuEngine, cache_state
from .layer_states import Device

__all__ = ["cache_state", "check", "open"]

PROVIDER = "CUDAExecutionProvider"
DRIVER = "libcuda.so.1"
LIBRARIES = {DRIVER: "an NVIDIA driver", "libcudnn.so.9": "cuDNN 9 (the extra qvl-runtime[cuda] installs it)"}


def open(bundle: Path, manifest: Manifest, threads: int | None) -> CpuEngine:
    """Loads the graphs; raises InstallError naming what is missing, BundleError if ONNX Runtime rejects a graph."""
    check(bundle, manifest)
    ort.preload_dlls()  # CUDA and cuDNN as pip installs them
    device = Device(PROVIDER, "cuda", "gpu:0", f"what is missing: {_missing()}")
    return cpu.open(bundle, manifest, threads, device)


def check(bundle: Path, manifest: Manifest) -> None:
    """Raises InstallError without an ONNX Runtime for CUDA, and on Linux without a driver."""
    if PROVIDER not in ort.get_available_providers():
        raise InstallError(
            "the installed ONNX Runtime does not support CUDA",
            fix=f"pip uninstall -y onnxruntime, then {install_fix('cuda')}",
        )
    if sys.platform == "linux" and not _found(DRIVER):
        raise InstallError(f"ONNX Runtime could not load its {PROVIDER}", fix=f"what is missing: {_missing()}")


def _missing() -> str:
    """Describes the libraries that are not found."""
    absent = [what for library, what in LIBRARIES.items() if not _found(library)]
    return ", ".join(absent) or "CUDA libraries or a GPU (check with nvidia-smi)"


def _found(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
