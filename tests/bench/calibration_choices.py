"""How Hessians are best gathered: what image tokens count against text tokens.

    python -m tests.bench.calibration_choices [PAGES] [SAMPLES] [BLOCK]

GPTQ int4 of the reference checkpoint, against fp16 on held-out pages, as `tests.bench.quantization` measures it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from qvl_export import ExportPlan, export
from qvl_runtime.model import Model, load
from tests.bench.quantization import CALIBRATION, LIMIT, divergences
from tests.heldout import character_error_rate, items
from tests.oracles.tiny import REFERENCE

CHOICES = {"image tokens count 1": 1.0, "1/4": 0.25, "4": 4.0}


def read(model: Model, pages: int) -> list[str]:
    return [model.generate(item.messages, LIMIT) for item in items("ocr", pages)]


def main(pages: int = 40, samples: int = 24, block: int = 32) -> None:
    """Prints a row of a table for each choice as it is measured."""
    questions = list(items("ocr", pages))
    truths = [item.answer for item in questions]
    with tempfile.TemporaryDirectory() as directory:
        export(ExportPlan(REFERENCE, Path(directory) / "fp16"))
        reference = load(Path(directory) / "fp16", threads=1)
        own = read(reference, pages)
        print(f"fp16 | {100 * character_error_rate(own, truths):.2f} % | | |", flush=True)
        for number, (name, weight) in enumerate(CHOICES.items()):
            out = Path(directory) / str(number)
            plan = ExportPlan(
                REFERENCE,
                out,
                llm_precision="int4",
                calib=CALIBRATION,
                samples=samples,
                block_size=block,
                vision_weight=weight,
            )
            export(plan)
            model = load(out, threads=1)
            kl, same = divergences(reference, model, questions, own)
            rate = f"{100 * character_error_rate(read(model, pages), truths):.2f} %"
            print(f"| {name} | {rate} | {kl:.5f} | {100 * same:.2f} % |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
