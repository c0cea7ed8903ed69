"""Helpers for all parts of the exporter: atomic output, locks, progress, extras."""
