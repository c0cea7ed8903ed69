"""Quantized checkpoints, GPTQ and AWQ: read bit for bit, and written."""
