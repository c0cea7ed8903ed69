"""Writes a bundle's files and its manifest."""
