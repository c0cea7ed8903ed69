"""All tests; whatever imports ONNX Runtime first, and every process that a test starts, does so without telemetry."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
