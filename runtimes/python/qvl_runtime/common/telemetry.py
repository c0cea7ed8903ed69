"""Turns ONNX Runtime's telemetry off before anything can import it; `import qvl_runtime` imports this module first.

ONNX Runtime reads ORT_DISABLE_TELEMETRY once, when it is imported: it then writes a device id and a database to the
user's cache, and a file to the directory for temporary files. A value that the user has set stays as it is.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
TOO_LATE = "onnxruntime" in sys.modules and VARIABLE not in os.environ
"""ONNX Runtime was imported before us, with telemetry on. It can still be told to send nothing."""

os.environ.setdefault(VARIABLE, "1")  # child processes inherit it
