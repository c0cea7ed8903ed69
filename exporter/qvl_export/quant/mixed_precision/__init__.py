"""A precision for every linear, chosen by what it costs."""
