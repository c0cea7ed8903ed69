"""Export plans of options in one flat list, as on a command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qvl_export.exporting.plan import GROUP_OF, ExportPlan, grouped


def export_plan(*paths: Any, **options: Any) -> ExportPlan:
    """A plan for `paths` (checkpoint and OUT), each option in its group."""
    return ExportPlan(*paths, **grouped(options))


def changed(plan: ExportPlan, **options: Any) -> ExportPlan:
    """The plan with other options."""
    for name, value in options.items():
        group = GROUP_OF.get(name)
        changes = {group: replace(getattr(plan, group), **{name: value})} if group else {name: value}
        plan = replace(plan, **changes)
    return plan
