"""Calibration, layer by layer, on the graphs that are exported."""
