"""Runs pdfium in a separate process."""
