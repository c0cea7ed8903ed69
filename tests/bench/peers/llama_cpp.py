"""llama.cpp from the source distribution of llama-cpp-python: Q4_0 and Q8_0, the tower in Q8_0.

Of the sources only the two libraries are built, natively for this processor.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import TextIO

from .peer import RUNNERS, Peer
from .venvs import TORCH, Venv, run

VERSION = "0.3.36"
BINDING = f"llama-cpp-python=={VERSION}"
LIBRARIES = "libraries"
BUILD = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_MTMD=ON"),
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP", "UI")),
)


def source(directory: Path) -> Path:
    """llama.cpp's sources below the environment's directory."""
    return directory / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"


def build(directory: Path, python: Path, log: TextIO) -> None:
    """Builds libllama and libmtmd, and installs the binding without them."""
    if not source(directory).exists():
        pip = [str(python), "-m", "pip"]
        sources = ("--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python")
        run([*pip, "download", *sources, "-d", str(directory), BINDING], log)
        with tarfile.open(directory / f"llama_cpp_python-{VERSION}.tar.gz") as archive:
            archive.extractall(directory, filter="data")
    cmake, out = str(python.with_name("cmake")), str(directory / LIBRARIES)
    ninja = f"-DCMAKE_MAKE_PROGRAM={python.with_name('ninja')}"
    run([cmake, "-S", str(source(directory)), "-B", out, "-G", "Ninja", ninja, *BUILD], log)
    run([cmake, "--build", out, "--target", "llama", "mtmd"], log)
    binding = str(source(directory).parents[1])
    without = "--config-settings=cmake.define.LLAMA_BUILD=OFF"
    run([str(python), "-m", "pip", "install", "--no-deps", "--no-build-isolation", without, binding], log)
    package = next(directory.glob("lib/python*/site-packages/llama_cpp"))
    shutil.rmtree(package / "lib", ignore_errors=True)  # where the binding looks
    shutil.copytree(Path(out) / "bin", package / "lib", symlinks=True)


VENV = Venv(
    "llama.cpp",
    (
        TORCH,
        (*TORCH, "transformers==5.24.0", "gguf", "sentencepiece", "pillow", "numpy", "jinja2", "diskcache"),
        ("cmake", "ninja", "scikit-build-core"),
    ),
    finish=build,
)


def prepare(peer: Peer, checkpoint: Path, out: Path, python: Path) -> None:
    """Converts and quantizes with llama.cpp's own programs."""
    directory = python.parents[1]
    script = str(RUNNERS / "convert_llama_cpp.py")
    with out.with_suffix(".log").open("w") as log:
        run([str(python), script, str(checkpoint), str(out), peer.precision, str(source(directory))], log)


PEERS = [
    Peer("llama.cpp", kind, "run_llama_cpp.py", prepare, VENV, model=f"llama-cpp-{kind}") for kind in ("Q4_0", "Q8_0")
]
