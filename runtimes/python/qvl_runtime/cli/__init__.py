"""The commands of `python -m qvl_runtime`."""
