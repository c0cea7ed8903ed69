"""What any part of the exporter may use: atomic output, locks, progress, extras."""
