"""A checkpoint's files and tensors."""
