"""Describes the machine of a comparison: times, and answers that depend on rounding, hold only for similar machines."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import msgspec

from qvl_runtime.common.extras import EXTRAS
from qvl_runtime.sessions import cores

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "dot product",
    "i8mm": "int8 matrix product",
}
"""CPU flags that decide the speed of integer products, and their names in the report."""
PACKAGES = ("qvl-export", "qvl-runtime", "onnxruntime", "onnxruntime-gpu")
REFERENCE = {"hf": ("torch", "transformers")}
"""Packages of a reference that PyTorch runs."""


class Machine(msgspec.Struct, frozen=True):
    """The machine of a report.

    `threads` is per process, for `workers` processes per model. `instructions` is empty if the system does not report
    them.
    """

    processor: str
    instructions: list[str]
    cores: int
    threads: int
    workers: int
    machines: int
    system: str
    versions: dict[str, str]


def this_machine(threads: int, workers: int, machines: int, engines: Collection[str]) -> Machine:
    """Describes the machine that the command runs on; those of a cluster are assumed to be like it.

    `engines` are the targets of the models, "hf" for PyTorch.
    """
    info = _cpuinfo()
    flags = set(re.findall(r"^(?:flags|Features)\s*: (.*)$", info, re.MULTILINE)[:1] or [""])
    known = {word for line in flags for word in line.split()}
    return Machine(
        processor=_processor(info),
        instructions=[name for flag, name in INSTRUCTIONS.items() if flag in known],
        cores=cores(),
        threads=threads,
        workers=workers,
        machines=machines,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=_versions((*PACKAGES, *(name for engine in engines for name in _packages(engine)))),
    )


def _cpuinfo() -> str:
    with contextlib.suppress(OSError):
        return CPUINFO.read_text("utf-8", "replace")
    return ""


def _processor(info: str) -> str:
    """Returns the processor's name if the system reports it, otherwise its architecture."""
    found = re.search(r"^(?:model name|Hardware)\s*: (.+)$", info, re.MULTILINE)
    return " ".join((found[1] if found else platform.processor() or platform.machine() or os.name).split())


def _packages(engine: str) -> tuple[str, ...]:
    """The packages of a reference, or the first one of the runtime's extra for a target: its library."""
    library = EXTRAS.get(engine.replace("_", "-"), ())[:1]
    return REFERENCE.get(engine, tuple(re.split(r"[^\w.-]", requirement)[0] for requirement in library))


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {**found, "Python": platform.python_version()}
