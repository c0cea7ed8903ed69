"""The Python runtime as a side of `web_speed`: answers once for every line of standard input, and prints seconds.

python -m tests.bench.web_speed_python BUNDLE THREADS TOKENS TEXT RAW WIDTH HEIGHT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qvl_runtime import load
from qvl_runtime.model import Model


def answer(model: Model, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    model.clear()
    began = time.perf_counter()
    stream = model.stream(messages, max_new_tokens=tokens, ignore_eos=True)
    "".join(stream)
    times, everything = stream.run.times, time.perf_counter() - began
    figures = {"first": everything - times.decode, "rest": times.decode, "vision": times.vision}
    return {**figures, "tokens": stream.run.tokens, "prompt": len(stream.prompt.ids) if stream.prompt else 0}


def main(bundle: str, threads: str, tokens: str, text: str, raw: str, width: str, height: str) -> None:
    pixels = np.frombuffer(Path(raw).read_bytes(), np.uint8).reshape(int(height), int(width), 3)
    content = [{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": text}]
    with load(bundle, threads=int(threads)) as model:
        print("loaded", flush=True)
        for _ in sys.stdin:
            print(json.dumps(answer(model, [{"role": "user", "content": content}], int(tokens))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
