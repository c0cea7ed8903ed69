"""A bundle's files and its manifest, as they are written."""
