"""The export: its plan, the checks and inputs of the plan, and its stages."""
