"""Chat templates and tokenizers tried out in a process of their own, before they run in this one.

minijinja and tokenizers are native code: what a hostile file makes of them ends a process (a full stack, no memory) or
never ends. A child with limits on memory and time tries it first. What passed is kept in the user's cache, by its hash
and the versions of both libraries, and not tried again. Where no child can be started (frozen applications, hosts that
embed Python) the bounds of `template_source` and `template_engine` remain.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ..common import user_cache
from ..common.interpreter import interpreter

VERSION = 1
"""Of what is tried: raising it tries all again."""
SECONDS = 60.0
"""Longest wait for a child, which ends itself after a few seconds of computing; machines may be busy."""
_PASSED = b"passed\n"
_passed: set[Path] = set()
"""In this process: where the cache keeps nothing, further loads need no child all the same."""
_ENDS = {-6: "it needs too much memory", -9: "it takes too long", -24: "it takes too long"}
"""What exit codes mean: the signals ABRT of an allocation that failed, KILL, and XCPU of a limit on computing."""


def template_job(source: str, special_tokens: Mapping[str, str]) -> object:
    """What is to be tried of a template."""
    return {"source": source, "special_tokens": dict(special_tokens)}


def faults(jobs: Mapping[str, object]) -> dict[str, str]:
    """What is wrong with those of a `template` and a `tokenizer` that something is wrong with.

    The first is a `template_job`, the second a `tokenizer.json` without its vocabulary. None are found where there can
    be no child.
    """
    python = interpreter()
    if python is None:
        return {}
    places = {name: _place(job) for name, job in jobs.items()}
    untried = {name: job for name, job in jobs.items() if not _has_passed(places[name])}
    verdicts = _ask(python, untried) if untried else {}
    for name in (name for name, fault in verdicts.items() if not fault):
        _passed.add(places[name])
        user_cache.keep(places[name], _PASSED)
    return {name: fault for name, fault in verdicts.items() if fault}


def _has_passed(place: Path) -> bool:
    return place in _passed or user_cache.read(place) == _PASSED


def _place(job: object) -> Path:
    """Where it is kept that this passed with these libraries."""
    import minijinja
    import tokenizers

    libraries = [Path(str(module.__file__)).parent for module in (minijinja, tokenizers)]
    binaries = [(file.name, file.stat().st_size) for place in libraries for file in sorted(place.glob("_lowlevel*"))]
    binaries += [(file.name, file.stat().st_size) for file in sorted(libraries[1].glob("tokenizers*"))]
    key = json.dumps([VERSION, sys.version, binaries, job], sort_keys=True)
    return user_cache.directory("qvl-runtime") / "vetted" / hashlib.sha256(key.encode()).hexdigest()


def _ask(python: str, jobs: Mapping[str, object]) -> dict[str, str]:
    """A child's verdict of every job, empty where all is well; nothing where it could not be started."""
    import subprocess

    command = [python, "-I", "-S", str(Path(__file__).with_name("vet_child.py"))]
    try:
        done = subprocess.run(
            command,
            input=json.dumps({"jobs": jobs, "path": _search_path()}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _verdicts(jobs, error.stdout or b"", -9)
    except OSError:
        return {}
    return _verdicts(jobs, done.stdout, done.returncode)


def _search_path() -> list[str]:
    """The directories that the child imports from: this package's and those of the two libraries."""
    import minijinja
    import tokenizers

    import qvl_runtime

    files = str(minijinja.__file__), str(tokenizers.__file__), str(qvl_runtime.__file__)
    return list(dict.fromkeys(str(Path(file).absolute().parents[1]) for file in files))


def _verdicts(jobs: Mapping[str, object], said: bytes, code: int) -> dict[str, str]:
    """A line for every job that was tried, after the first; the child ended in the first job without one."""
    started, *lines = said.decode("utf-8", "replace").splitlines() or [""]
    if started != "started":
        return {}  # no Python that has our libraries
    found = {name: str(json.loads(line)) for name, line in zip(jobs, lines, strict=False)}
    unsaid = [name for name in jobs if name not in found]
    if unsaid:
        end = _ENDS.get(code, f"it ends the process that tries it (exit code {code})")
        found[unsaid[0]] = end
    return found
