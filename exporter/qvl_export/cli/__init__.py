"""The commands of `qvl-export`."""
