"""Target `web`: graphs for ONNX Runtime Web on WebGPU, run here on a CPU.

Browsers run these bundles (`runtimes/web`); this makes their accuracy measurable where there is no browser.
"""

from __future__ import annotations

from .cpu import cache_state, open
from .portable import check

__all__ = ["cache_state", "check", "open"]
