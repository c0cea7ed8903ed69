"""What the distributions declare: one version, extras as errors name them, Optimum's namespace in one distribution."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import qvl_export
import qvl_runtime
from qvl_export.common.extras import EXTRAS as EXPORTER_EXTRAS
from qvl_runtime.common.extras import EXTRAS, ONNX_RUNTIMES, install_fix

ROOT = Path(__file__).parents[1]
PLACES = {"qvl-export": ".", "qvl-runtime": "runtimes/python", "qvl-export-optimum": "integrations/optimum"}


def project(name: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / PLACES[name] / "pyproject.toml").read_text("utf-8"))["project"]
    assert found["name"] == name
    return found


def test_all_have_one_version_and_want_it_of_each_other() -> None:
    versions = {project(name)["version"] for name in PLACES}
    assert versions == {qvl_export.__version__} == {qvl_runtime.__version__}
    (version,) = versions
    assert f"qvl-runtime=={version}" in project("qvl-export")["dependencies"]
    assert f"qvl-export=={version}" in project("qvl-export-optimum")["dependencies"]
    assert project("qvl-export")["optional-dependencies"]["optimum"] == [f"qvl-export-optimum=={version}"]


def test_errors_name_the_declared_extras() -> None:
    """An application that is frozen has no metadata to read, so the runtime has its own table."""
    declared = project("qvl-runtime")["optional-dependencies"]
    assert declared == {name: list(wanted) for name, wanted in EXTRAS.items()}
    for name, wanted in EXPORTER_EXTRAS.items():
        assert project("qvl-export")["optional-dependencies"][name] == list(wanted)
    assert install_fix("pdf") == 'pip install "pypdfium2>=4.30", which is the extra qvl-runtime[pdf]'


def test_engines_and_pytorch_are_extras() -> None:
    wanted = [*project("qvl-runtime")["dependencies"], *project("qvl-export")["dependencies"]]
    assert not [name for name in wanted if name.startswith(("torch", *ONNX_RUNTIMES))]


@pytest.mark.parametrize("name", PLACES)
def test_author_and_license_are_declared(name: str) -> None:
    found, place = project(name), ROOT / PLACES[name]
    assert found["authors"] == [{"name": "qvl-export contributors"}]
    assert found["license"] == "Apache-2.0"
    assert all((place / file).is_file() for file in (*found["license-files"], found["readme"]))
    assert (place / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_exporter_brings_no_package_named_optimum() -> None:
    """transformers takes `find_spec("optimum")` for the question whether Optimum is installed."""
    packages = [str(Path(package.__file__).parents[1]) for package in (qvl_export, qvl_runtime) if package.__file__]
    code = f"import sys; sys.path = {packages} + [p for p in sys.path if 'site-packages' not in p]\n"
    code += "from importlib.util import find_spec; print(find_spec('optimum'), find_spec('qvl_export') is not None)"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "None True\n"
