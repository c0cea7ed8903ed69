"""What the type of OpenVINO's arithmetic costs in accuracy: float32, which bundles use, and bfloat16, its own default
on processors that have it.

    python -m tests.bench.openvino_types REFERENCE BUNDLE … [--pages 24]

REFERENCE is a float bundle of any target, each BUNDLE one of target `openvino`, all of the reference checkpoint. Prints
a row of a Markdown table per bundle and type: KL to REFERENCE along the true answers of held-out pages, the part of
tokens whose likeliest one is the same, and the CER of greedy answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from qvl_export.common.kl import divergence, log_softmax
from qvl_runtime.model import Model, load
from qvl_runtime.sessions._openvino import compiler
from tests.heldout import Item, character_error_rate, items

TYPES = ("f32", "bf16")
FIRST = 100
"""The first page, as in `tests.heldout.divergence`."""
LONGEST = 120
"""Most tokens of an answer."""


def loaded(bundle: Path, element_type: str) -> Model:
    """The bundle on one thread, computed in a type."""
    own = compiler._config

    def config(device: str, threads: int | None) -> dict[str, Any]:
        return {**own(device, threads), "INFERENCE_PRECISION_HINT": element_type}

    with mock.patch.object(compiler, "_config", config):
        return load(bundle, threads=1)


def along(model: Model, pages: Sequence[Item]) -> list[np.ndarray]:
    """Log probabilities [tokens, vocab] of each page's true answer."""
    return [log_softmax(model.logits(page.messages, page.answer)) for page in pages]


def row(name: str, model: Model, expected: Sequence[np.ndarray], pages: Sequence[Item]) -> str:
    found = along(model, pages)
    kl = np.concatenate([divergence(p, q) for p, q in zip(expected, found, strict=True)])
    same = np.concatenate([p.argmax(-1) == q.argmax(-1) for p, q in zip(expected, found, strict=True)])
    answers = [model.generate(page.messages, max_new_tokens=LONGEST) for page in pages]
    cer = character_error_rate(answers, [page.answer for page in pages])
    return f"| {name} | {kl.mean():.2g} | {100 * same.mean():.1f} % | {100 * cer:.2f} % |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--pages", type=int, default=24)
    options = parser.parse_args(arguments)
    pages = list(items("ocr"))[FIRST : FIRST + options.pages]
    with load(options.reference, threads=1) as reference:
        expected = along(reference, pages)
    print("| | KL | same top | CER |\n|---|---|---|---|")
    for bundle in options.bundles:
        for element_type in TYPES:
            with loaded(bundle, element_type) as model:
                print(row(f"{bundle.name}, {element_type}", model, expected, pages), flush=True)


if __name__ == "__main__":
    main()
