"""Scores of single answers against their truth."""
