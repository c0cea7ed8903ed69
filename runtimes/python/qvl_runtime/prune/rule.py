"""The rules by which blocks are left out, and how users name them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from ..common.checks import parse_float, quoted
from ..errors import PromptError
from ..manifest import Manifest
from .blocks import LEAST

MAX_TOLERANCE = 255.0


@dataclass(frozen=True)
class Rule:
    """Leaves out blocks that differ from their prediction by at most `tolerance`, see `blocks.kept_blocks`.

    None leaves out nothing.
    """

    tolerance: float | None

    def __str__(self) -> str:
        return str(recorded_rule(self))


OFF = Rule(None)
RULES: Mapping[str, Rule] = {"off": OFF, "exact": Rule(0.0), "scan": Rule(8.0)}
"""Named rules: `exact` for pages that were drawn, `scan` for pages with the noise of a scanner or of JPEG."""
CHOSEN = RULES["scan"]
"""The rule of `True`, chosen by measurement (docs/pruning.md)."""


def parse_rule(value: object, name: str = "prune", fix: str = "") -> Rule | None:
    """Returns the rule that `value` names: a name, a tolerance, True (`CHOSEN`) or False; None if it is None.

    Raises PromptError for anything else; errors name the option `name` and advise `fix`.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return CHOSEN if value else OFF
    if isinstance(value, str) and value in RULES:
        return RULES[value]
    tolerance = _number(value)
    if tolerance is None or not 0 <= tolerance <= MAX_TOLERANCE:
        allowed = f"{', '.join(RULES)} or a number from 0 to {MAX_TOLERANCE:g}"
        raise PromptError(f"{name} must be {allowed}, got {quoted(value)}", fix=fix)
    return Rule(tolerance)


def parse_option(value: object, name: str = "--prune") -> Rule | None:
    """Returns the rule of a command's option; raises PromptError as `parse_rule` does."""
    return parse_rule(value, name, fix="without a value it goes last, or before another option")


def recorded_rule(rule: Rule | None) -> str | float | None:
    """Returns the rule as `bundle.json` has it: its name, else its tolerance."""
    if rule is None:
        return None
    return next((name for name, named in RULES.items() if named == rule), rule.tolerance)


def _number(value: object) -> float | None:
    try:
        number = parse_float(value) if isinstance(value, str) else float(value) if isinstance(value, Real) else math.nan
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def check_grid(rule: Rule | None, manifest: Manifest, name: str = "prune") -> None:
    """Raises PromptError if a rule is to leave out blocks of images that the model cannot take in part."""
    side = manifest.image.square
    if side and rule is not None and rule != OFF:
        raise PromptError(
            f"{name}={str(rule)!r}, but this model sees every image in {side} × {side} pixels and cannot leave out any",
            fix=f"leave {name} out",
        )


def least_blocks(manifest: Manifest) -> int:
    """Returns the fewest blocks of a temporal patch that may be kept: a few, or as many as the engine was built for."""
    graph, unit = manifest.graphs.get("vision"), manifest.image.spatial_merge_size**2  # none yet during calibration
    profiles = graph.engine.profiles if graph and graph.engine else []
    fewest = [-(-profile.axes["patches"].min // unit) for profile in profiles]
    return max([LEAST, *fewest])
