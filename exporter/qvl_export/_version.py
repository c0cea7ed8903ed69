"""The version of the exporter."""

__version__ = "0.1.0"
