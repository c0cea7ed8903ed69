"""All tests; ONNX Runtime is imported without telemetry, here and in every process that a test starts."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
