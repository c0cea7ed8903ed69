"""Loads images and videos as RGB."""
