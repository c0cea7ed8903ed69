"""The only module that imports ONNX Runtime: checks that it is complete and the only distribution, telemetry off.

Importing this module raises InstallError if ONNX Runtime is missing or damaged, or if two distributions are installed.
"""

from __future__ import annotations

from importlib import metadata

from ..common.extras import ONNX_RUNTIMES, install_fix
from ..common.telemetry import TOO_LATE
from ..errors import InstallError

__all__ = ["check_install", "ort"]

MISSING = f"{install_fix('cpu')}, or {install_fix('cuda')}"


def check_install() -> None:
    """Raises InstallError for two distributions of ONNX Runtime: they overwrite each other's files."""
    found = [name for name in ONNX_RUNTIMES if _installed(name)]
    if len(found) > 1:
        raise InstallError(
            f"{' and '.join(found)} are installed together and overwrite each other",
            fix=f"pip uninstall -y {' '.join(found)}, then install one extra, qvl-runtime[cpu] or qvl-runtime[cuda]",
        )


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _interrupt(error: BaseException | None) -> BaseException | None:
    """Returns the KeyboardInterrupt or SystemExit that an error stands for: a C++ module reports one as ImportError."""
    while isinstance(error, Exception):
        error = error.__cause__ or error.__context__
    return error


check_install()  # first, so that two distributions raise an error instead of crashing
try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":
        raise InstallError(f"ONNX Runtime needs {error.name}, which is missing", fix=install_fix("cpu")) from error
    raise InstallError("no ONNX Runtime is installed", fix=MISSING) from error
except ImportError as error:
    if interrupt := _interrupt(error):
        raise interrupt from None
    raise InstallError(f"ONNX Runtime cannot be loaded: {error}", fix="install it again") from error
if not hasattr(ort, "InferenceSession"):  # an uninstalled distribution left a folder behind
    raise InstallError("ONNX Runtime is damaged: it has no InferenceSession", fix=MISSING)
if TOO_LATE:
    ort.disable_telemetry_events()
