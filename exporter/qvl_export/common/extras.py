"""The extras of qvl-export that are none of qvl-runtime's, and what each installs; see `qvl_runtime.common.extras`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qvl_runtime.common.extras import fix_of

EXTRAS: Mapping[str, Sequence[str]] = {
    "quant": ("torch>=2.6",),
    "hf": ("transformers>=5.0", "torch>=2.6"),
    "ray": ("ray>=2.40",),
    "tensorrt-rtx": ("tensorrt-rtx>=1.7",),
}


def install_fix(extra: str) -> str:
    """What to do where the packages of an extra of qvl-export are missing."""
    return fix_of("qvl-export", extra, EXTRAS[extra])
