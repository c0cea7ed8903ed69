"""Leaving out the blocks of an image that their neighbours predict, before the vision tower sees them."""
