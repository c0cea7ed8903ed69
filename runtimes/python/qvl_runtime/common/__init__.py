"""Helpers that any part of the runtime may use."""
