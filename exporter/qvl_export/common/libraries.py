"""Checks before the long work that PyTorch and ONNX Runtime, which only calibration needs, are installed."""

from __future__ import annotations

from ..errors import ExportError
from .extras import install_fix


def check() -> None:
    """Raises ExportError if PyTorch cannot be imported, InstallError if ONNX Runtime cannot."""
    import qvl_runtime._onnxruntime.library  # noqa: F401

    try:
        import torch  # noqa: F401, TID251
    except ModuleNotFoundError as error:
        what = f"int8, int4 and --max-kl need {error.name}, which is not installed"
        raise ExportError(what, fix=install_fix("quant")) from error
    except (ImportError, OSError) as error:  # one of its shared libraries is missing or built for another system
        raise ExportError(f"PyTorch cannot be loaded: {error}", fix="reinstall it") from error
