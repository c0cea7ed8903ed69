"""Quantization: schemes, calibration, and the choice of precisions per linear."""
