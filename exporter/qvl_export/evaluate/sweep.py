"""`sweep`: one export per precision, and a bundle per pixel bound that differs from it only in bundle.json."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import PromptError
from qvl_runtime.manifest import MANIFEST
from qvl_runtime.prune.rule import parse_rule, recorded_rule

from .. import families
from ..bundle import files as bundle
from ..common.fingerprint import fingerprint, stamps
from ..common.progress import Progress
from ..errors import ConfigError, ExportError
from ..exporting import hub
from ..exporting.option_checks import adjusted_spec, check_options
from ..exporting.pipeline import CalibrationOptions, ExportPlan, export
from ..quant.precision import FLOATS
from .answers.bundle_names import BundleName
from .report.output_dir import BUNDLES, is_bundle, locked_output
from .sets.dataset import open_set

INPUTS_KEY = ".made-of"
"""Name of the file beside the bundles that contains the key of their inputs."""


@dataclass(frozen=True)
class SweepPlan:
    """The pixel bounds, precisions and rules of pruning to compare; the first of each are the reference's.

    Quantized precisions are calibrated on `calib`, by default on the built-in set. Calibration runs on the Ray cluster
    at the address `ray` if given, else on `threads` local cores.
    """

    checkpoint: str
    pixels: tuple[int, ...]
    precisions: tuple[str, ...]
    data: Path
    out: Path
    calib: Path | None = None
    ray: str | None = None
    threads: int | None = None
    prune: tuple[str | float, ...] = ()


def parse_prune(text: str | None) -> tuple[str | float, ...]:
    """Parses rules of pruning, in their order; raises ConfigError for one that does not exist."""
    if text is None:
        return ()
    try:
        rules = [recorded_rule(parse_rule(part.strip(), "--prune")) for part in text.split(",")]
    except PromptError as error:
        raise ConfigError(error.what, fix="such as off,exact,scan") from error
    return tuple(rule for rule in dict.fromkeys(rules) if rule is not None)


def parse_pixels(text: str) -> tuple[int, ...]:
    """Parses pixel bounds, largest first; raises ConfigError if one is not a positive whole number."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(
            f"--pixels {text!r} is not a list of positive whole numbers", fix="such as 200704,501760,1003520"
        )
    return tuple(sorted({int(part) for part in parts}, reverse=True))


def export_bundles(plan: SweepPlan, progress: Progress) -> list[Path]:
    """Returns the names of all bundles; the one with the first precision and rule and the most pixels comes first.

    Rules of `prune` are options of the names (`answers.bundle_names`).

    Existing bundles are reused if they come from the same checkpoint, calibration pages and code.
    """
    if len(plan.pixels) * len(plan.precisions) * max(len(plan.prune), 1) < 2:
        raise ExportError(
            "a sweep needs at least two combinations", fix="add values to --pixels, --precisions or --prune"
        )
    if plan.calib is not None and set(plan.precisions) <= set(FLOATS):
        raise ExportError(
            "--calib is used only by quantization", fix="add int8 or int4 to --precisions, or leave it out"
        )
    with locked_output(plan.out):
        open_set(plan.data)
        for precision in plan.precisions:
            check_options(_export_plan(plan, precision, plan.out))
        _check_prune(plan)
        key = _key(plan)
        _remove_stale(plan.out / BUNDLES, key, progress)
        suffixes = ["" if rule == "off" else BundleName(plan.out, rule).suffix for rule in plan.prune] or [""]
        bundles = list(_bundles(plan, key, progress))
        return [bundle.with_name(f"{bundle.name}{suffix}") for bundle in bundles for suffix in suffixes]


def _check_prune(plan: SweepPlan) -> None:
    """Raises ExportError, before anything is exported, if the model cannot leave out any part of its images."""
    rules = [rule for rule in plan.prune if rule != "off"]
    if rules:
        checkpoint, _ = hub.locate(plan.checkpoint, None)
        adjusted_spec(ExportPlan(plan.checkpoint, plan.out, prune=rules[0]), families.read_spec(checkpoint))


def _key(plan: SweepPlan) -> str:
    """Returns the key of those inputs of the bundles that their names do not show."""
    parts = plan.checkpoint, _files(Path(plan.checkpoint)), _files(plan.calib) if plan.calib else (), fingerprint()
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Returns the stamps of a file or of all files in a directory; nothing for a path not on this machine."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return stamps(each for each in found if each.is_file())


def _remove_stale(folder: Path, key: str, progress: Progress) -> None:
    """Removes the bundles of a sweep with other inputs; anything that is not such a bundle stays."""
    mark = folder / INPUTS_KEY
    if not folder.is_dir() or (mark.is_file() and mark.read_text() == key):
        return
    mark.unlink(missing_ok=True)
    if others := [path for path in folder.iterdir() if is_bundle(path)]:
        progress.stage(
            "existing bundles come from another checkpoint, calibration set or version: exporting them again"
        )
    for path in others:
        shutil.rmtree(path)


def _bundles(plan: SweepPlan, key: str, progress: Progress) -> Iterator[Path]:
    for precision in plan.precisions:
        largest = plan.out / BUNDLES / f"{precision}-{plan.pixels[0]}"
        if not (largest / MANIFEST).is_file():
            export(_export_plan(plan, precision, largest), progress)
            (plan.out / BUNDLES / INPUTS_KEY).write_text(key)
        yield largest
        for pixels in plan.pixels[1:]:
            yield _with_bound(largest, plan.out / BUNDLES / f"{precision}-{pixels}", pixels)


def _export_plan(plan: SweepPlan, precision: str, out: Path) -> ExportPlan:
    whole = ExportPlan(plan.checkpoint, out, precision=precision, max_pixels=plan.pixels[0])
    if precision in FLOATS:
        return whole
    pages = CalibrationOptions(calib=plan.calib or (), ray=plan.ray, threads=plan.threads)
    return replace(whole, calibration=pages)


def _with_bound(source: Path, out: Path, pixels: int) -> Path:
    """Writes the same bundle with another pixel bound; files are hard links if the file system supports them."""
    if (out / MANIFEST).is_file():
        return out
    manifest = read_manifest(source)
    image = manifest.image
    if pixels < image.factor**2:
        raise ConfigError(f"--pixels {pixels} is less than one image token", fix=f"use at least {image.factor**2}")
    bound = msgspec.structs.replace(image, min_pixels=min(image.min_pixels, pixels), max_pixels=pixels)
    with bundle.writing(out, force=False) as directory:
        bundle.link_files(manifest, source, directory)
        bundle.write_manifest(directory, msgspec.structs.replace(manifest, image=bound))
    return out
