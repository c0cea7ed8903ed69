"""The extras of qvl-runtime and what each installs, for errors that say what is missing.

Errors name the packages of an extra and not the extra alone: these come from a package index, qvl-runtime from
wherever the user has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CUDA_PYTHON = "cuda-python>=12.6"
EXTRAS: Mapping[str, Sequence[str]] = {
    "cpu": ("onnxruntime>=1.24",),
    "cuda": ("onnxruntime-gpu[cuda,cudnn]>=1.24",),
    "tensorrt": ("tensorrt>=10.15", CUDA_PYTHON),
    "tensorrt-rtx": ("tensorrt-rtx>=1.7", CUDA_PYTHON),
    "pdf": ("pypdfium2>=4.30",),
    "video": ("av>=13",),
    "json": ("llguidance>=1.7",),
}
"""As in pyproject.toml, which a test holds; an application that is frozen has no metadata to read."""

ONNX_RUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-migraphx", "onnxruntime-openvino"),
    *("onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-training", "ort-nightly", "ort-nightly-gpu"),
)
"""Distributions that all own the package folder `onnxruntime`: only one of them can be installed."""


def install_fix(extra: str) -> str:
    """What to do where the packages of an extra of qvl-runtime are missing."""
    return fix_of("qvl-runtime", extra, EXTRAS[extra])


def fix_of(distribution: str, extra: str, requirements: Sequence[str]) -> str:
    """What to do where requirements of a distribution's extra are missing; quoted for every shell."""
    wanted = " ".join(f'"{requirement}"' for requirement in requirements)
    return f"pip install {wanted}, which is the extra {distribution}[{extra}]"
