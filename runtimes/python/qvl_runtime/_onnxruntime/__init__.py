"""ONNX Runtime: the one place that imports it, and what is looked at before it runs."""
