"""Evaluation sets: reading and building them."""
