"""Writes the vectors of this directory anew: `python -m tests.conformance.make`, or `make conformance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from . import answers, images, indices, pdfs, prompts, tool_calls
from .document import Document

HERE = Path(__file__).parent
DOCUMENTS: Mapping[str, Callable[[], Document]] = {
    "resize": images.resize,
    "smart_resize": images.smart_sizes,
    "bicubic": images.bicubic,
    "patches": images.patches,
    "pruning": images.pruned,
    "video_frames": images.video_frames,
    "pdf_pages": pdfs.pdf_pages,
    "patch_positions": indices.positions,
    "interpolation": indices.interpolations,
    "windows": indices.windows,
    "mrope": indices.mrope,
    "ntk_alpha": indices.ntk,
    "cache_inputs": indices.cache_inputs,
    "templates": prompts.templates,
    "tokens": prompts.tokens,
    "timestamps": prompts.timestamps,
    "prompts": prompts.prompts,
    "random": answers.randoms,
    "sampling": answers.sampling,
    "logprobs": answers.logprobs,
    "stop_strings": answers.stop_strings,
    "loops": answers.loops,
    "tool_calls": tool_calls.tool_calls,
    "boxes": answers.boxes,
}
"""By the names of their files, without `.json`."""


def main() -> None:
    for name, document in DOCUMENTS.items():
        (HERE / f"{name}.json").write_text(document().text(), "utf-8")


if __name__ == "__main__":
    main()
