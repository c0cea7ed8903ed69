"""Checks that the engines of bundles run on this machine, before any model runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qvl_runtime import sessions
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import EngineError, InstallError


def check_engines(bundles: Iterable[Path]) -> None:
    """Raises InstallError, EngineError or BundleError, naming the bundle, for the first one that cannot run here."""
    for bundle in bundles:
        try:
            sessions.check_engine(bundle, read_manifest(bundle))
        except (InstallError, EngineError) as error:  # they know the library alone
            raise type(error)(error.what, where=error.where or bundle, fix=error.fix) from error
