"""A file of vectors: what it is about, what its cases take and give, and the cases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One call: its name, its inputs and its outputs, in Python's types or numpy's."""

    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """The content of one file; `shared` holds what several cases refer to by name."""

    about: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    cases: Iterable[Case]
    shared: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """JSON with a line per case, so that a difference shows the case that changed."""
        head = {"about": self.about, "inputs": dict(self.inputs), "outputs": dict(self.outputs)}
        if self.shared:
            head["shared"] = plain(self.shared)
        cases = ({"name": case.name, "in": plain(case.inputs), "out": plain(case.outputs)} for case in self.cases)
        lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
        return json.dumps(head, ensure_ascii=False, indent=1)[:-2] + f',\n "cases": [\n{lines}\n ]\n}}\n'


def plain(value: Any) -> Any:
    """The value in JSON's types; float32 numbers become the shortest decimals that round to them."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:
            return plain(value.astype(str).astype(np.float64).tolist())
        return plain(value.tolist())
    if isinstance(value, np.float32):
        return plain(float(str(value)))
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    return value
