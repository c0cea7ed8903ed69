"""What a run of `read` is started with, and the fingerprint by which answers of the same run are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..bundle import read_manifest
from ..manifest import MANIFEST

RETRY_PENALTY = 1.1
"""The repetition penalty of the second try of an answer that looped, unless a stronger one is set."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How each page is asked about; `settings` are options of `Model.stream` by their names.

    `prompt` None is allowed if every input is a file of requests. With `retry_loops` an answer that loops is tried once
    more with a repetition penalty.
    """

    prompt: str | None = None
    system: str | None = None
    json_schema: Any = None
    max_pixels: int | None = None
    prune: str | float | bool | None = None
    retry_loops: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self, bundle: Path) -> str:
        """Returns a hash of the bundle's manifest and of everything that answers depend on.

        Raises BundleError if there is no bundle that can be read.
        """
        read_manifest(bundle)
        schema = json.dumps(self.json_schema)  # answers have the properties in the order of the schema
        made = json.dumps(asdict(self) | {"json_schema": schema}, sort_keys=True, default=list).encode()
        return hashlib.sha256((bundle / MANIFEST).read_bytes() + made).hexdigest()[:16]
