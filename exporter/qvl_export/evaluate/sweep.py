"""`sweep`: one export a precision, and from it a bundle for every pixel bound, which is two numbers of bundle.json."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import MANIFEST

from .. import bundle
from ..atomic import remove_empty
from ..errors import ConfigError, ExportError
from ..fingerprint import fingerprint
from ..pipeline import ExportPlan, export
from ..progress import Progress
from ..quant.precision import FLOATS
from .place import BUNDLES, check_place, is_bundle

MADE_OF = ".made-of"
"""Beside the bundles: the key of what they were made of."""


@dataclass(frozen=True)
class SweepPlan:
    """The bounds and precisions to try; `calib` is needed by quantized ones. The first of each is the reference's.

    Calibration is spread over the Ray cluster at the address `ray` if given.
    """

    checkpoint: str
    pixels: tuple[int, ...]
    precisions: tuple[str, ...]
    data: Path
    out: Path
    calib: Path | None = None
    ray: str | None = None


def parse_pixels(text: str) -> tuple[int, ...]:
    """Pixel bounds, the largest first; raises ConfigError."""
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--pixels {text!r} are not whole numbers", fix="such as 200704,501760,1003520")
    return tuple(sorted({int(part) for part in parts}, reverse=True))


def make_bundles(plan: SweepPlan, progress: Progress) -> list[Path]:
    """All bundles, that of the first precision and the most pixels first.

    Those that are there are used again, if they are of the same checkpoint, calibration pages and code.
    """
    if len(plan.pixels) * len(plan.precisions) < 2:
        raise ExportError("a single combination is no sweep", fix="give more --pixels or --precisions")
    check_place(plan.out)
    for precision in plan.precisions:
        _export_plan(plan, precision, plan.out).check()
    folder = plan.out / BUNDLES
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    _clear_others(plan, progress)
    try:
        return list(_bundles(plan, progress))
    finally:
        if [path.name for path in folder.iterdir()] == [MADE_OF]:  # none was begun
            (folder / MADE_OF).unlink()
            remove_empty(created)


def _clear_others(plan: SweepPlan, progress: Progress) -> None:
    """Remove bundles of sweeps that were made of something else, and nothing that is called otherwise."""
    folder = plan.out / BUNDLES
    folder.mkdir(parents=True, exist_ok=True)
    parts = plan.checkpoint, _files(Path(plan.checkpoint)), _files(plan.calib) if plan.calib else (), fingerprint()
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    mark = folder / MADE_OF
    others = (
        [] if mark.is_file() and mark.read_text() == key else [path for path in folder.iterdir() if is_bundle(path)]
    )
    if others:
        progress.stage("the bundles there are of another checkpoint, set or version: they are made anew")
    for path in others:
        shutil.rmtree(path)
    mark.write_text(key)


def _files(place: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a file or of all in a directory; none of what is not on this machine."""
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()]


def _bundles(plan: SweepPlan, progress: Progress) -> Iterator[Path]:
    for precision in plan.precisions:
        most = plan.out / BUNDLES / f"{precision}-{plan.pixels[0]}"
        if not (most / MANIFEST).is_file():
            export(_export_plan(plan, precision, most), progress)
        yield most
        for pixels in plan.pixels[1:]:
            yield _with_bound(most, plan.out / BUNDLES / f"{precision}-{pixels}", pixels)


def _export_plan(plan: SweepPlan, precision: str, out: Path) -> ExportPlan:
    whole = ExportPlan(plan.checkpoint, out, precision=precision, max_pixels=plan.pixels[0])
    return whole if precision in FLOATS else replace(whole, calib=plan.calib or (), ray=plan.ray)


def _with_bound(source: Path, out: Path, pixels: int) -> Path:
    """The same bundle with another pixel bound; files are hard links where the file system has them."""
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
