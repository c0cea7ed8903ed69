"""Fingerprints of code and library versions, so that work started by another version is not resumed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import qvl_runtime
from qvl_runtime.common.extras import ONNX_RUNTIMES

LIBRARIES = ("numpy", *ONNX_RUNTIMES, "pillow", "pypdfium2", "tokenizers", "torch")
"""Libraries whose releases may change results bitwise."""


@cache
def fingerprint() -> dict[str, str]:
    """Returns the hash of this package's and the runtime's sources, and the versions of LIBRARIES."""
    return {"code": digest([Path(__file__).parents[1], Path(qvl_runtime.__file__).parent]), **versions(LIBRARIES)}


def digest(packages: Iterable[Path]) -> str:
    """Returns the SHA-256 of the names and contents of all Python files in some directories."""
    found = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    return found.hexdigest()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Returns name, size and modification time of each file, which identify files without reading them."""
    return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Returns the versions of the distributions that are installed."""
    found = {}
    for name in distributions:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
