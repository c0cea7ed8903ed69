"""Every install line that a document shows works, from the checkout and from built wheels: run in fresh environments.

Lines that bring gigabytes are resolved and not installed.
"""

from __future__ import annotations

import email
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

from qvl_runtime.common.extras import ONNX_RUNTIMES

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "exporter", "runtimes/python", "integrations/optimum", "calib_data")
LINE = re.compile(r"pip install ([^`#|&\n]+)")
WHEELS = re.compile(r"pip wheel ([^`#|&\n]+)")
NAMES = {"./runtimes/python": "qvl-runtime", ".": "qvl-export", "./integrations/optimum": "qvl-export-optimum"}
OURS = re.compile(r"(\./runtimes/python|\./integrations/optimum|\.|qvl-runtime|qvl-export)(?:\[(.*)\])?")
HEAVY = {"cuda", "tensorrt-rtx", "tensorrt", "hf", "ray", "optimum"}
UNRESOLVED = {"tensorrt"}
"""Extras whose packages are scripts that download from an index of the vendor's own."""
LEFT_OUT = (".*", "dist", "build", "demo_out", "tests", "__pycache__", "*.egg-info")
Checkpoints = Callable[[str, str], Path]


def documented() -> list[tuple[str, ...]]:
    """The arguments of every `pip install`, and of those that are quick the same from wheels."""
    texts = [path.read_text("utf-8") for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
    lines = [tuple(shlex.split(line)) for text in texts for line in LINE.findall(text)]
    quick = [line for line in lines if not extras(line) & {*HEAVY, "quant"}]
    return list(dict.fromkeys([*lines, *map(from_wheels, quick)]))


def from_wheels(line: tuple[str, ...]) -> tuple[str, ...]:
    """Names instead of folders."""
    found = [OURS.fullmatch(argument) for argument in line]
    if not any(match and match[1] in NAMES for match in found):
        return line
    named = [match[0].replace(match[1], NAMES[match[1]], 1) if match else "" for match in found]
    return ("--find-links", "dist", *named)


def extras(line: tuple[str, ...]) -> set[str]:
    found = [OURS.fullmatch(argument) for argument in line]
    return {extra for match in found if match and match[2] for extra in match[2].split(",")}


LINES = documented()
OUR_LINES = [line for line in LINES if any(OURS.fullmatch(argument) for argument in line)]


def test_documents_show_what_is_tested_here() -> None:
    """The lines are found at all, and no document installs by names that no index has."""
    assert {"cpu", "cuda", "quant", "tensorrt-rtx", "ray", "optimum"} <= set().union(*map(extras, OUR_LINES))
    for line in OUR_LINES:
        named = [argument for argument in line if argument.startswith("qvl-")]
        assert not named or "--find-links" in line, line


def run(*command: object, cwd: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PIP_NO_COMPILE": "1", "PIP_NO_INPUT": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=580, check=False
    )
    assert not ok or done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with wheels of all distributions in `dist`."""
    copy = tmp_path_factory.mktemp("checkout") / "sources"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (shown,) = set(WHEELS.findall((ROOT / "docs" / "installing.md").read_text("utf-8")))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *shlex.split(shown), "./integrations/optimum", cwd=copy)
    return copy


def pip(python: Path, *arguments: object, cwd: Path) -> str:
    """The tests' own pip, in another environment: making one without pip takes no time."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=cwd).stdout


def environment(place: Path) -> Path:
    """The Python of a new virtual environment."""
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    return place / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds what builds our metadata, so that a line does not install it again."""
    python = environment(tmp_path_factory.mktemp("resolver") / "venv")
    pip(python, "install", "--quiet", "hatchling", cwd=python.parent)
    return python


def resolved(python: Path, line: tuple[str, ...], checkout: Path) -> set[str]:
    """The names of what a line would install."""
    report = python.with_name("report.json")
    options = ["--quiet", "--dry-run", "--no-build-isolation", "--report", report]
    options += ["--no-deps"] if extras(line) & UNRESOLVED else []
    pip(python, "install", *options, *line, cwd=checkout)
    return {item["metadata"]["name"] for item in json.loads(report.read_text("utf-8"))["install"]}


def installed(python: Path, line: tuple[str, ...], checkout: Path) -> set[str]:
    """The names of what a line has installed."""
    pip(python, "install", "--quiet", *line, cwd=checkout)
    return {item["name"] for item in json.loads(pip(python, "list", "--format", "json", cwd=checkout))}


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_install_line(
    line: tuple[str, ...],
    checkout: Path,
    resolver: Path,
    tmp_path: Path,
    checkpoint: Checkpoints,
    bundle: Callable[..., Path],
) -> None:
    chosen, light = extras(line), not extras(line) & HEAVY
    names = resolved(resolver, line, checkout) if not light or "quant" in chosen else set[str]()
    light = light and not any(name.startswith("nvidia-") for name in names)  # no other PyTorch
    python = environment(tmp_path / "venv") if light else resolver
    names = installed(python, line, checkout) if light else names
    if line in OUR_LINES and not chosen & UNRESOLVED:
        assert len(names & set(ONNX_RUNTIMES)) == len(chosen & {"cpu", "cuda"}) <= 1
        assert ("torch" in names) == bool(chosen & {"quant", "hf", "optimum"})
        assert ("optimum" in names) == ("optimum" in chosen)
    if line in OUR_LINES and light:
        check_runtime(python, chosen, bundle("qwen2_5_vl", "small", "fp16"))
    if "qvl-export" in names and light:
        check_exporter(python, chosen, checkpoint("qwen2_5_vl", "small"), tmp_path)


def check_runtime(python: Path, chosen: set[str], bundle: Path) -> None:
    """It answers, or says which extra it wants."""
    ask = ("-m", "qvl_runtime", "run", bundle, "Read the text.", "--max-new-tokens", "2", "--json")
    done = run(python, *ask, cwd=python.parent, ok=False)
    assert done.returncode == (0 if "cpu" in chosen else 2), done.stderr
    if "cpu" not in chosen:
        assert "qvl-runtime[cpu]" in done.stderr and done.stderr.count("\n") == 1


def check_exporter(python: Path, chosen: set[str], checkpoint: Path, out: Path) -> None:
    """It exports fp16 without PyTorch, and int8 with it; transformers does not take Optimum for installed."""
    export = (python.with_name("qvl-export"), "export", checkpoint)
    run(*export, out / "fp16", cwd=out)
    done = run(*export, out / "int8", "--precision", "int8", "--samples", "1", cwd=out, ok=False)
    assert done.returncode == (0 if "quant" in chosen else 2), done.stderr
    if "quant" not in chosen:
        assert "qvl-export[quant]" in done.stderr and done.stderr.count("\n") == 1
    look = "import importlib.util; print(importlib.util.find_spec('optimum'))"
    assert run(python, "-c", look, cwd=out).stdout == "None\n"


def metadata(checkout: Path, name: str) -> tuple[Message, list[str]]:
    """A wheel's metadata, and the names of its files."""
    (wheel,) = (checkout / "dist").glob(f"{name.replace('-', '_')}-[0-9]*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(files.read(place)), names


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values())
def test_metadata_of_wheels(checkout: Path, name: str) -> None:
    """Author, license, and a description whose links resolve."""
    found, files = metadata(checkout, name)
    assert found["Author"] == "qvl-export contributors"
    assert found["License-Expression"] == "Apache-2.0"
    assert {"LICENSE", "NOTICE"} == set(found.get_all("License-File") or [])
    assert found.get_all("Classifier")
    description = str(found.get_payload())
    assert len(description) > 300
    assert not re.findall(r"\]\((?!https?://)[^)]*\)|src=\"(?!https?://)", description)
    assert any(file.startswith("optimum/") for file in files) == (name == "qvl-export-optimum")
