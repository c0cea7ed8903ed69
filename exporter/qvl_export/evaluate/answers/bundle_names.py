"""Names of bundles with options, such as `int4@prune=scan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import PromptError
from qvl_runtime.prune.rule import OFF, Rule, check_grid, parse_rule, recorded_rule

from ...errors import ExportError

OPTIONS = ("prune",)
"""The options that a name may have."""
FIX = "write BUNDLE@prune=off, exact, scan or a tolerance"


@dataclass(frozen=True)
class BundleName:
    """A bundle's path, and the `prune` that replaces its default (None: its default holds)."""

    path: Path
    prune: str | float | None = None

    @property
    def suffix(self) -> str:
        """The options as they are written after the path; empty if there are none."""
        return "" if self.prune is None else f"@prune={self.prune}"

    def rule(self) -> Rule:
        """Returns the rule that the runtime follows; raises BundleError for a damaged manifest."""
        return parse_rule(read_manifest(self.path).image.prune if self.prune is None else self.prune) or OFF


def parse_name(name: Path) -> BundleName:
    """Splits a name at its last `@`, unless it is the name of a directory.

    Raises ExportError for unknown options and values.
    """
    path, at, text = str(name).rpartition("@")
    if not at or not path or Path(text).name != text or name.is_dir():
        return BundleName(name)
    key, _, value = text.partition("=")
    if key not in OPTIONS:
        raise ExportError(f"is not a directory, and {key!r} is not an option of a bundle", where=name, fix=FIX)
    try:
        return BundleName(Path(path), recorded_rule(parse_rule(value)))
    except PromptError as error:
        raise ExportError(str(error), where=name) from error


def check_name(name: BundleName) -> None:
    """Raises ExportError if the bundle cannot leave out any part of its images, and BundleError for a damaged one."""
    try:
        check_grid(name.rule(), read_manifest(name.path))
    except PromptError as error:
        raise ExportError(error.what, where=name.path, fix=f"leave {name.suffix} out") from error
