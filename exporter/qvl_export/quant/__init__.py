"""Quantization: schemes, the tensors they produce, and checkpoints that hold such tensors."""
