"""How long a draw from logits of a large vocabulary takes, alone or beside another version of `sampling.py`.

    python -m tests.bench.draws [--other FILE]
    git show REVISION:runtimes/python/qvl_runtime/answers/sampling.py > FILE

Normal logits of three deviations, from flat ones to ones as peaked as those of trained models (3). The least of many
draws in microseconds, since other work only adds; both versions draw from the same logits in turns, and must draw the
same tokens. Memory is read between draws, since a step of a model displaces the caches too.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qvl_runtime.answers import sampling

VOCABULARY, DRAWS = 151_936, 60
DEVIATIONS = (0.02, 0.5, 3.0)
WAYS: Mapping[str, dict[str, Any]] = {
    "top_p 0.3": {"top_p": 0.3},
    "top_p 0.9": {"top_p": 0.9},
    "top_p 0.999": {"top_p": 0.999},
    "top_k 50": {"top_k": 50},
    "temperature 1": {},
    "temperature 0.7": {"temperature": 0.7},
}


def version(file: Path) -> ModuleType:
    """Another version of `sampling.py`, in its package."""
    spec = importlib.util.spec_from_file_location(f"{sampling.__name__}_other", file)
    assert spec and spec.loader
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def microseconds(modules: list[ModuleType], options: Mapping[str, Any], deviation: float) -> list[float]:
    """The least time of a draw by each module."""
    pickers = [module.Sampling(**{"temperature": 1.0, "seed": 1, **options}).picker() for module in modules]
    rng, others = np.random.default_rng(0), np.ones(8_000_000)
    times: list[list[float]] = [[] for _ in modules]
    for index in range(DRAWS):
        logits = (rng.standard_normal(VOCABULARY) * deviation).astype(np.float32)
        tokens = set()
        for place in range(len(modules)):
            place = (place + index) % len(modules)
            others.sum()
            began = time.perf_counter()
            tokens.add(pickers[place](logits))
            times[place].append(time.perf_counter() - began)
        assert len(tokens) == 1
    return [1e6 * min(each) for each in times]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--other", type=Path)
    other = parser.parse_args().other
    modules = [*([version(other)] if other else []), sampling]
    print("deviation | way |", "other | this" if other else "this")
    for deviation in DEVIATIONS:
        for name, options in WAYS.items():
            found = microseconds(modules, options, deviation)
            print(deviation, name, *(f"{value:,.0f}" for value in found), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
