"""Reads many documents with one bundle: what `qvl-runtime read` runs."""
