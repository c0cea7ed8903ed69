"""ONNX Runtime: the only module that imports it, and the checks before it runs."""
