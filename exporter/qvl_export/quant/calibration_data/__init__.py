"""Questions about document pages, and the prompts that calibration runs."""
