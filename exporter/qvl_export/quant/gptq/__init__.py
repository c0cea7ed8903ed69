"""GPTQ and rounding to nearest: the linear algebra."""
