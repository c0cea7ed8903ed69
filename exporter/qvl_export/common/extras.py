"""The extras of qvl-export that qvl-runtime does not have, and their packages; see `qvl_runtime.common.extras`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qvl_runtime.common.extras import fix_of

EXTRAS: Mapping[str, Sequence[str]] = {
    "quant": ("torch>=2.6",),
    "hf": ("transformers>=5.0", "torch>=2.6"),
    "tensorrt-rtx": ("tensorrt-rtx>=1.7",),
}


def install_fix(extra: str) -> str:
    """Returns the fix to show if the packages of an extra of qvl-export are missing."""
    return fix_of("qvl-export", extra, EXTRAS[extra])
