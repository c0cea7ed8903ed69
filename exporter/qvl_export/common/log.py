"""The logger `qvl_export`, which is silent until the application or `--verbose` configures it.

Messages hold paths, sizes, options and times; never prompts, answers or `data:` URLs.
"""

from __future__ import annotations

import logging

log = logging.getLogger("qvl_export")
log.addHandler(logging.NullHandler())  # otherwise Python would print warnings of a logger that nobody configured
