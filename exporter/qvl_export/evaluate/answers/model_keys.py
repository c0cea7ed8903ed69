"""Checks that models are of the expected kind before they run, and computes the key that identifies each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import GENAI_CONFIG, MANIFEST

from ...common.fingerprint import stamps
from ...errors import ExportError

CONFIG = "config.json"


def model_keys(reference: Path, bundles: Sequence[Path], hf: bool) -> list[str]:
    """Returns the keys of the reference and the bundles; with `hf`, the reference is a checkpoint.

    Raises ExportError and BundleError.
    """
    if not hf and _is_checkpoint(reference):
        fix = "use --reference hf to run it with PyTorch, or export it first"
        raise ExportError("is a checkpoint, not a bundle", where=reference, fix=fix)
    return [_hf_key(reference) if hf else _bundle_key(reference), *map(_bundle_key, bundles)]


def _is_checkpoint(path: Path) -> bool:
    """Whether `path` has the configuration of a checkpoint but not of a bundle."""
    return (path / CONFIG).is_file() and not any((path / name).is_file() for name in (MANIFEST, GENAI_CONFIG))


def _bundle_key(path: Path) -> str:
    """Returns the hash of the manifest, which contains the hash of every file."""
    read_manifest(path)
    return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()[:12]


def _hf_key(path: Path) -> str:
    """Returns the hash of names, sizes and modification times of a checkpoint's files."""
    if not (path / CONFIG).is_file():
        raise ExportError("is not a checkpoint directory", where=path, fix="--reference hf requires one")
    return hashlib.sha256(repr(stamps(sorted(path.iterdir()))).encode()).hexdigest()[:12]
