"""Turns ONNX Runtime's telemetry off before anything can import it; `import qvl_runtime` imports this module first.

ONNX Runtime reads ORT_DISABLE_TELEMETRY only when it is imported: with telemetry on it writes a device id and a
database to the user's cache and a file to the temporary directory. A value set by the user is kept.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
TOO_LATE = "onnxruntime" in sys.modules and VARIABLE not in os.environ
"""Whether ONNX Runtime was imported earlier, with telemetry on. Sending can still be disabled then."""

os.environ.setdefault(VARIABLE, "1")  # child processes inherit it
