"""Reads and writes the files and tensors of checkpoints."""
