"""What releases of TensorRT read, and which release a JetPack brings.

The operators are those of onnx-tensorrt's tables (`tensorrt_operators.json`). Where the table of a release was not at
hand, they are the last earlier table and what the changelog added since then: rather too few than too many.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import ExportError


@dataclass(frozen=True)
class Release:
    """A release of TensorRT: its name, the opset of its graphs, and that of graphs with int4 weights (None: has none).

    Before 10.0 types of a graph are hints (not `strongly_typed`), and `trtexec` builds a single profile.
    """

    name: str
    opset: int
    int4_opset: int | None
    strongly_typed: bool = True

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.name.split(".")
        return int(major), int(minor)

    @property
    def number(self) -> int:
        """The least number that `trtexec` of this release shows: v8602 is 8.6.2, v100300 is 10.3.0."""
        major, minor = self.version
        return major * 10000 + minor * 100 if major >= 10 else major * 1000 + minor * 100

    @property
    def operators(self) -> frozenset[str]:
        """The names of the ONNX operators that its parser lists."""
        return listed_operators(self.version)


RELEASES = {
    release.name: release
    for release in (
        Release("8.6", 17, None, strongly_typed=False),
        Release("10.3", 17, 21),  # lists opsets up to 20; ScatterND of opset 18 was mended in 10.9
        Release("10.13", 21, 21),
        Release("10.15", 24, 24),
    )
}
JETPACKS = {"6": "8.6", "7": "10.13"}
"""The oldest TensorRT of a JetPack: 8.6.2 in JetPack 6.0 (10.3 since 6.1), 10.13 in JetPack 7.0."""


@cache
def _tables() -> dict[str, dict[str, list[str]]]:
    tables: dict[str, dict[str, list[str]]] = json.loads(
        Path(__file__).with_name("tensorrt_operators.json").read_text()
    )
    return tables


@cache
def listed_operators(version: tuple[int, int]) -> frozenset[str]:
    """Returns the operators of the last table up to `version`, and those that later releases up to it added."""
    tables, added = (
        {tuple(map(int, name.split("."))): names for name, names in _tables()[key].items()}
        for key in ("tables", "added")
    )
    last = max(each for each in tables if each <= version)
    return frozenset(tables[last]).union(*(names for each, names in added.items() if last < each <= version))


def find(name: str) -> Release:
    """Returns a release by its name; raises ExportError for one that is not known."""
    if name not in RELEASES:
        raise ExportError(
            f"--tensorrt-version {name} is not known", fix=f"{', '.join(RELEASES)}: take the newest one not above yours"
        )
    return RELEASES[name]


def of_options(version: str | None, jetpack: str | None) -> str | None:
    """Returns the release that options name, if any; raises ExportError for unknown ones, and if both are given."""
    if version is not None and jetpack is not None:
        raise ExportError("--tensorrt-version and --jetpack exclude one another", fix="give one of them")
    if jetpack is not None and jetpack not in JETPACKS:
        raise ExportError(
            f"--jetpack {jetpack} is not known",
            fix=f"{' or '.join(JETPACKS)}; for others --tensorrt-version {', '.join(RELEASES)}: take the newest one "
            "not above that of your JetPack",
        )
    name = JETPACKS[jetpack] if jetpack is not None else version
    return None if name is None else find(name).name
