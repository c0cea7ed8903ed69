"""Writing a bundle: beside its place, then renamed, so that a killed export leaves no half of one."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import onnx_ir as ir

from qvl_runtime.manifest import MANIFEST, FileEntry, Manifest, sha256

from .errors import CheckpointError, OutputError
from .graph.build import Graph

_BESIDE = ".{name}.{pid}.{state}"
_PARTIAL, _REPLACED = "partial", "replaced"


@contextlib.contextmanager
def writing(out: Path, force: bool, mark: str = MANIFEST) -> Iterator[Path]:
    """A directory beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    `mark` is the file that tells what may be replaced. Raises OutputError when `out` exists and `force` is not set, or
    when the disk is full or not writable.
    """
    check_free(out, force, mark)
    out = Path(os.path.realpath(out))
    _clear_leftovers(out)
    check_free(out, force, mark)
    beside = out.parent / _BESIDE.format(name=out.name, pid=os.getpid(), state=_PARTIAL)
    created = [parent for parent in out.parents if not parent.exists()]
    try:
        beside.mkdir(parents=True)
        yield beside
        _sync(beside)
        check_free(out, force, mark)  # another export may have finished first
        _replace(beside, out)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        reason, other = error.strerror or str(error), error.filename and not str(error.filename).startswith(str(beside))
        if other and not out.is_relative_to(Path(error.filename)):
            raise CheckpointError(f"cannot be read: {reason}", where=error.filename) from error
        raise OutputError(f"cannot be written: {reason}", where=out, fix="nothing was left behind") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        _remove_empty(created)


def check_free(out: Path, force: bool, mark: str = MANIFEST) -> None:
    """Refuse an existing `out` without `force`, and with it anything without the file `mark`."""
    if not out.exists() and not out.is_symlink():
        return
    if not (out / mark).is_file() and not (out.is_dir() and not any(out.iterdir())):
        kind = "a bundle" if mark == MANIFEST else f"a directory with {mark}"
        raise OutputError(f"exists and is not {kind}", where=out, fix="choose another place")
    if Path.cwd().is_relative_to(out.resolve()):
        raise OutputError("is the current directory", where=out, fix="run it from elsewhere")
    if not force:
        raise OutputError("already exists", where=out, fix="give --force to replace it")


def _clear_leftovers(out: Path) -> None:
    """Clear away after exports to this place whose process is gone; an old bundle caught between renames comes back."""
    pattern = _BESIDE.format(name=glob.escape(out.name), pid="*", state="*")
    for path in out.parent.glob(pattern):
        pid, state = path.name.split(".")[-2:]
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if state == _REPLACED and not out.exists():
            path.rename(out)
        elif state in (_PARTIAL, _REPLACED):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether the process exists; where that cannot be told, it does."""
    return Path(f"/proc/{pid}").exists() or not Path("/proc/self").exists()


def _remove_empty(directories: list[Path]) -> None:
    """Parents made for a bundle that then failed, innermost first."""
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def _sync(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _replace(beside: Path, out: Path) -> None:
    """Rename into place; an old bundle is moved aside first and removed last."""
    old = beside.with_suffix(f".{_REPLACED}")
    if out.exists():
        out.rename(old)
    try:
        beside.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def save_graph(graph: Graph, directory: Path) -> None:
    """The graph's protobuf; its weights stay in the external data file they were written to."""
    ir.save(graph.model, directory / f"{graph.name}.onnx")


def file_entry(path: Path, digest: str | None = None) -> FileEntry:
    """Size and hash of a finished file."""
    return FileEntry(size=path.stat().st_size, sha256=digest or sha256(path))


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """`bundle.json`, last of all."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    msgspec.json.decode(encoded, type=Manifest)  # what cannot be read back is not written
    (directory / MANIFEST).write_bytes(encoded + b"\n")
