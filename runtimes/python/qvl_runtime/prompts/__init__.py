"""From chat messages to token ids, positions and media."""
