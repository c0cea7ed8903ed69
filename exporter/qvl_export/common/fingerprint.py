"""What code a computation comes from: work begun by another version of it must not be gone on with."""

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
"""Those whose releases may give other bits."""


@cache
def fingerprint() -> dict[str, str]:
    """The hash of this package's and the runtime's sources, and the versions of what computes for them."""
    return {"code": digest([Path(__file__).parents[1], Path(qvl_runtime.__file__).parent]), **versions(LIBRARIES)}


def digest(packages: Iterable[Path]) -> str:
    """The sha256 of all Python files in some directories, names and contents."""
    found = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{path.relative_to(package).as_posix()} {content}\n".encode())
    return found.hexdigest()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each: what tells files from others without reading them."""
    return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in distributions:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
