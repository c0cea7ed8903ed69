"""The extras of qvl-runtime and the packages of each, for errors that say what is missing.

Errors name the packages as well as the extra: packages come from a package index, but qvl-runtime may come from
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InstallError

CUDA_PYTHON = "cuda-python>=12.6"
EXTRAS: Mapping[str, Sequence[str]] = {
    "cpu": ("onnxruntime>=1.24",),
    "cuda": ("onnxruntime-gpu[cuda,cudnn]>=1.24",),
    "tensorrt": ("tensorrt>=10.15", CUDA_PYTHON),
    "tensorrt-rtx": ("tensorrt-rtx>=1.7", CUDA_PYTHON),
    "openvino": ("openvino>=2026.2",),
    "pdf": ("pypdfium2>=4.30",),
    "video": ("av>=13",),
    "json": ("llguidance>=1.7",),
    "serve": ("starlette>=0.46", "uvicorn>=0.34", "prometheus-client>=0.21"),
    "ray": ("ray[serve]>=2.40",),
}
"""As in pyproject.toml (a test checks this); a frozen application has no metadata to read."""

ONNX_RUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-migraphx", "onnxruntime-openvino"),
    *("onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-training", "ort-nightly", "ort-nightly-gpu"),
)
"""Distributions that share the package folder `onnxruntime`: only one of them can be installed."""


def install_fix(extra: str) -> str:
    """Returns the advice for missing packages of an extra of qvl-runtime."""
    return fix_of("qvl-runtime", extra, EXTRAS[extra])


def fix_of(distribution: str, extra: str, requirements: Sequence[str]) -> str:
    """Returns the advice for missing requirements of a distribution's extra, quoted for any shell."""
    wanted = " ".join(f'"{requirement}"' for requirement in requirements)
    return f"pip install {wanted}, which is the extra {distribution}[{extra}]"


def import_failure(error: ImportError, module: str, library: str, fix: str) -> InstallError:
    """Returns the error for a `library` whose `module` could not be imported: only a missing one is not installed."""
    if not isinstance(error, ModuleNotFoundError):
        return InstallError(f"{library} cannot be loaded: {error}", fix="install it again")
    if error.name != module:
        return InstallError(f"{library} needs {error.name}, which is missing", fix=fix)
    return InstallError(f"{library} is not installed", fix=fix)
