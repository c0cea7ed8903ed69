"""Engine files, built from a bundle's written graphs for targets with compiled engines.

A target module with such engines has `finisher(options)`, which returns the function that finishes its bundles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qvl_runtime.manifest import EngineEntry, GraphEntry, Manifest

from ..common.progress import Progress
from ..errors import ExportError
from ..qtensor import QuantFormat

PROFILES = ("pages", "video")
"""Inputs of a vision engine: single images, or videos too."""
SCRIPT = "build_engines.sh"


@dataclass(frozen=True)
class BuildOptions:
    """Options of engines: compute capabilities (8.6 is 86; empty: the target's default), one of PROFILES, whether any
    weights are or may become `int4`, the release of `tensorrt` that is named, and the formats of weights that the
    checkpoint has `stored` quantized."""

    capabilities: tuple[int, ...] = ()
    profile: str = PROFILES[0]
    int4: bool = False
    tensorrt: str | None = None
    stored: frozenset[QuantFormat] = frozenset()


@dataclass(frozen=True)
class Finished:
    """The graphs after finishing, and the files that were `added` to the bundle and `dropped` from it."""

    graphs: dict[str, GraphEntry]
    added: tuple[str, ...]
    dropped: tuple[str, ...] = ()


Finisher = Callable[[Path, Manifest, Progress], Finished]
"""Finishes the bundle in a directory, which the given manifest describes; raises ExportError."""


def capabilities(text: str | None) -> tuple[int, ...]:
    """Parses `86,89,120` or `8.6,8.9,12.0`; raises ExportError if it is not a list of compute capabilities."""
    if text is None:
        return ()
    found = [re.fullmatch(r"(\d+)\.?(\d)", part.strip()) for part in text.split(",")]
    if not all(found):
        raise ExportError(
            f"compute capabilities {text!r} are not numbers", fix="such as --compute-capability 86,89,120"
        )
    return tuple(dict.fromkeys(int(match[1] + match[2]) for match in found if match))


def check(options: BuildOptions, library: str) -> None:
    """Raises ExportError for an unknown profile and for weights that no version of TensorRT supports."""
    if options.profile not in PROFILES:
        raise ExportError(f"profile {options.profile!r} is not known", fix=f"one of {', '.join(PROFILES)}")
    if any(format.asymmetric or format.bits != 4 for format in options.stored):
        raise ExportError(
            f"the checkpoint's GPTQ weights are not symmetric int4, the only form that {library} supports",
            fix="export the unquantized checkpoint with --precision int4, or use --target cpu",
        )


def engine_name(graph: str) -> str:
    return f"{graph}.engine"


def with_engine(entry: GraphEntry, engine: EngineEntry, keep: bool) -> GraphEntry:
    """Adds an engine to a graph's entry, beside its ONNX files or (without `keep`) instead of them."""
    model, data = (entry.model, entry.data) if keep else (engine.file, None)
    return msgspec.structs.replace(entry, model=model, data=data, engine=engine)


def onnx_files(graphs: Sequence[GraphEntry]) -> tuple[str, ...]:
    """The ONNX files of the graphs from which engines were built."""
    return tuple(dict.fromkeys(name for entry in graphs for name in entry.files))
