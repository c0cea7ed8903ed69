"""An export: its plan, the checkpoint opened for it, and the list of stages."""
