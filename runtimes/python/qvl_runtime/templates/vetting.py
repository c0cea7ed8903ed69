"""Tries chat templates and tokenizers in a child process before they run in this one.

minijinja and tokenizers are native code: a hostile file can make them crash the process (stack overflow, no memory) or
run forever. A child with limits on memory and time tries it first. Files that passed are recorded in the user's cache,
by their hash and the builds of both libraries, and not tried again. If no child can be started (frozen applications,
hosts that embed Python), only the limits of `source` and `engine` apply.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ..common import user_cache
from ..common.interpreter import interpreter, locations
from ..common.log import log

VERSION = 1
"""Version of the tests: raising it makes every file be tried again."""
SECONDS = 60.0
"""Maximum wait for a child, which ends itself after a few seconds of CPU time; machines may be busy."""
_PASSED = b"passed\n"
_passed: set[Path] = set()
"""Files that passed in this process: later loads need no child even if the cache is not writable."""
_EXIT_FAULTS = {-6: "it needs too much memory", -9: "it takes too long", -24: "it takes too long"}
"""Exit codes → faults: SIGABRT after a failed allocation, SIGKILL, and SIGXCPU at the limit of CPU time."""


def template_job(source: str, special_tokens: Mapping[str, str]) -> object:
    """Returns the job that tries a template."""
    return {"source": source, "special_tokens": dict(special_tokens)}


def faults(jobs: Mapping[str, object]) -> dict[str, str]:
    """Returns the faults found in the jobs `template` and `tokenizer`, by name; sound ones are not included.

    The first is a `template_job`, the second a `tokenizer.json` without its vocabulary. Without a child process no
    faults are found.
    """
    python = interpreter()
    if python is None:
        return {}
    records = {name: _record_path(job) for name, job in jobs.items()}
    untested = {name: job for name, job in jobs.items() if not _has_passed(records[name])}
    verdicts = _run_child(python, untested) if untested else {}
    log.debug("vetted: %s; passed earlier: %s", list(verdicts), [name for name in jobs if name not in untested])
    for name in (name for name, fault in verdicts.items() if not fault):
        _passed.add(records[name])
        user_cache.keep(records[name], _PASSED)
    return {name: fault for name, fault in verdicts.items() if fault}


def _has_passed(record: Path) -> bool:
    return record in _passed or user_cache.read(record) == _PASSED


def _record_path(job: object) -> Path:
    """Returns the cache path that records that a job passed with the installed libraries."""
    import minijinja
    import tokenizers

    libraries = [Path(str(module.__file__)).parent for module in (minijinja, tokenizers)]
    binaries = [(file.name, file.stat().st_size) for folder in libraries for file in sorted(folder.glob("_lowlevel*"))]
    binaries += [(file.name, file.stat().st_size) for file in sorted(libraries[1].glob("tokenizers*"))]
    key = json.dumps([VERSION, sys.version, binaries, job], sort_keys=True)
    return user_cache.directory("qvl-runtime") / "vetted" / hashlib.sha256(key.encode()).hexdigest()


def _run_child(python: str, jobs: Mapping[str, object]) -> dict[str, str]:
    """Returns a child's verdict per job, an empty text if it is sound; no verdicts if no child could be started."""
    import subprocess

    command = [python, "-I", "-S", str(Path(__file__).with_name("vet_child.py"))]
    try:
        result = subprocess.run(
            command,
            input=json.dumps({"jobs": jobs, "path": locations("minijinja", "tokenizers", "qvl_runtime")}).encode(),
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
    return _verdicts(jobs, result.stdout, result.returncode)


def _verdicts(jobs: Mapping[str, object], output: bytes, code: int) -> dict[str, str]:
    """Parses the child's output: one line per tried job after the first; it ended in the first job without a line."""
    started, *lines = output.decode("utf-8", "replace").splitlines() or [""]
    if started != "started":
        return {}  # not a Python with our libraries
    found = {name: str(json.loads(line)) for name, line in zip(jobs, lines, strict=False)}
    unreported = [name for name in jobs if name not in found]
    if unreported:
        end = _EXIT_FAULTS.get(code, f"it crashes the process that tests it (exit code {code})")
        found[unreported[0]] = end
    return found
