"""`sweep`: one export per precision, and from it one bundle per pixel bound, which changes only bundle.json."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import MANIFEST

from ..bundle import files as bundle
from ..common.fingerprint import fingerprint, stamps
from ..common.progress import Progress
from ..errors import ConfigError, ExportError
from ..exporting.option_checks import check_options
from ..exporting.pipeline import CalibrationOptions, ExportPlan, export
from ..quant.precision import FLOATS
from .report.output_dir import BUNDLES, at_work, is_bundle
from .sets.dataset import open_set

MADE_OF = ".made-of"
"""File beside the bundles that holds the key of their inputs."""


@dataclass(frozen=True)
class SweepPlan:
    """The pixel bounds and precisions to try; the first of each are the reference's.

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


def parse_pixels(text: str) -> tuple[int, ...]:
    """Parses pixel bounds, largest first; raises ConfigError if one is not a positive whole number."""
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--pixels {text!r} are not whole numbers", fix="such as 200704,501760,1003520")
    return tuple(sorted({int(part) for part in parts}, reverse=True))


def make_bundles(plan: SweepPlan, progress: Progress) -> list[Path]:
    """Returns all bundles; the one with the first precision and the most pixels comes first.

    Existing bundles are reused if they come from the same checkpoint, calibration pages and code.
    """
    if len(plan.pixels) * len(plan.precisions) < 2:
        raise ExportError("a single combination is no sweep", fix="give more --pixels or --precisions")
    if plan.calib is not None and set(plan.precisions) <= set(FLOATS):
        raise ExportError("--calib is for quantization", fix="add int8 or int4 to --precisions, or leave it out")
    with at_work(plan.out):
        open_set(plan.data)
        for precision in plan.precisions:
            check_options(_export_plan(plan, precision, plan.out))
        key = _key(plan)
        _clear_others(plan.out / BUNDLES, key, progress)
        return list(_bundles(plan, key, progress))


def _key(plan: SweepPlan) -> str:
    """Returns the key of the inputs of bundles that their names do not show."""
    parts = plan.checkpoint, _files(Path(plan.checkpoint)), _files(plan.calib) if plan.calib else (), fingerprint()
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _files(place: Path) -> list[tuple[str, int, int]]:
    """Returns the stamps of a file or of all files in a directory; nothing for a path not on this machine."""
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return stamps(path for path in found if path.is_file())


def _clear_others(folder: Path, key: str, progress: Progress) -> None:
    """Removes the bundles of a sweep with other inputs; anything that is not such a bundle stays."""
    mark = folder / MADE_OF
    if not folder.is_dir() or (mark.is_file() and mark.read_text() == key):
        return
    mark.unlink(missing_ok=True)
    if others := [path for path in folder.iterdir() if is_bundle(path)]:
        progress.stage("the bundles there are of another checkpoint, set or version: they are made anew")
    for path in others:
        shutil.rmtree(path)


def _bundles(plan: SweepPlan, key: str, progress: Progress) -> Iterator[Path]:
    for precision in plan.precisions:
        most = plan.out / BUNDLES / f"{precision}-{plan.pixels[0]}"
        if not (most / MANIFEST).is_file():
            export(_export_plan(plan, precision, most), progress)
            (plan.out / BUNDLES / MADE_OF).write_text(key)
        yield most
        for pixels in plan.pixels[1:]:
            yield _with_bound(most, plan.out / BUNDLES / f"{precision}-{pixels}", pixels)


def _export_plan(plan: SweepPlan, precision: str, out: Path) -> ExportPlan:
    whole = ExportPlan(plan.checkpoint, out, precision=precision, max_pixels=plan.pixels[0])
    if precision in FLOATS:
        return whole
    pages = CalibrationOptions(calib=plan.calib or (), ray=plan.ray, threads=plan.threads)
    return replace(whole, calibration=pages)


def _with_bound(source: Path, out: Path, pixels: int) -> Path:
    """Makes the same bundle with another pixel bound; files are hard links if the file system supports them."""
    if (out / MANIFEST).is_file():
        return out
    manifest = read_manifest(source)
    image = manifest.image
    if pixels < image.factor**2:
        raise ConfigError(f"{pixels} pixels are less than one image token", fix=f"at least {image.factor**2}")
    bound = msgspec.structs.replace(image, min_pixels=min(image.min_pixels, pixels), max_pixels=pixels)
    with bundle.writing(out, force=False) as directory:
        bundle.link_files(manifest, source, directory)
        bundle.write_manifest(directory, msgspec.structs.replace(manifest, image=bound))
    return out
