"""Scores of single answers against the true ones."""
