"""Quantized checkpoints: reads GPTQ and AWQ bit for bit, and writes GPTQ."""
