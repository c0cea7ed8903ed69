"""The export: its plan, the checkpoint opened for it, and its stages."""
