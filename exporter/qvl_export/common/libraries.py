"""What calibration needs and a plain export does not, PyTorch and ONNX Runtime, looked for before the long work."""

from __future__ import annotations

from ..errors import ExportError
from .extras import install_fix


def check() -> None:
    """Raises ExportError where PyTorch cannot be imported, InstallError where ONNX Runtime cannot."""
    import qvl_runtime._onnxruntime.library  # noqa: F401

    try:
        import torch  # noqa: F401, TID251
    except ModuleNotFoundError as error:
        what = f"int8, int4 and --max-kl need {error.name}, which is not installed"
        raise ExportError(what, fix=install_fix("quant")) from error
    except (ImportError, OSError) as error:  # a library of it that is missing or of another system
        raise ExportError(f"PyTorch cannot be loaded: {error}", fix="install it again") from error
