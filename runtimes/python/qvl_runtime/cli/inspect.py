"""The command `inspect`: shows what a bundle holds, and verifies its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..common.exit_codes import DAMAGED
from ..common.standard_streams import print_json, put, show
from ..printable import one_line
from .command import Command
from .options import bundle_argument, verbose

if TYPE_CHECKING:
    from ..manifest import Manifest

EXAMPLES = ("inspect bundle", "inspect bundle --verify", "inspect bundle --json")


@click.command(cls=Command, examples=EXAMPLES)
@bundle_argument
@click.option("--verify", is_flag=True, help="Recompute the sha256 of every file; exit with 1 if the "
              "content of one differs, with 2 if one is missing or has another size.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@verbose
@click.pass_context
def inspect(context: click.Context, bundle: Path, verify: bool, as_json: bool) -> None:
    """Show what BUNDLE holds; --verify checks every file."""
    from ..bundle import read_manifest
    from ..bundle import verify as check_files

    manifest = read_manifest(bundle)
    checked = dict(check_files(bundle, manifest)) if verify else {}
    damaged = [name for name, good in checked.items() if not good]
    if as_json:
        _print_json(manifest, {"verified": checked, "damaged": damaged} if verify else {})
    else:
        _print_text(bundle, manifest, checked, damaged)
    if damaged:
        context.exit(DAMAGED)


def _print_json(manifest: Manifest, verified: dict[str, object]) -> None:
    import msgspec

    print_json({**msgspec.to_builtins(manifest), **verified}, indent=1)


def _print_text(bundle: Path, manifest: Manifest, checked: dict[str, bool], damaged: list[str]) -> None:
    from .describe import describe

    show(describe(manifest, bundle=bundle))
    for name, good in checked.items():
        show(f"{'ok     ' if good else 'DAMAGED'}  {one_line(name)}")
    if damaged:
        put(f"{len(damaged)} of {len(checked)} files differ from what was written: copy or export the bundle again")
