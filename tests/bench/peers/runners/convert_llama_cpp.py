"""Writes `model.gguf` and `mmproj.gguf` by llama.cpp's own converter and quantizer: CHECKPOINT OUT TYPE SOURCE.

SOURCE is llama.cpp's source directory. The converter knows a tokenizer by the hash of what it makes of a text, and
knows no random one: it is told that this is Qwen2's.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

TYPES = {"Q4_0": 2, "Q8_0": 7}
"""`llama_ftype` of llama.h."""


def convert(source: Path, arguments: list[str]) -> None:
    sys.path[:0] = [str(source / "gguf-py"), str(source)]
    import conversion.base
    import convert_hf_to_gguf

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    convert_hf_to_gguf.main()


def quantize(path: Path, out: Path, kind: str) -> None:
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = TYPES[kind], 2
    if llama_cpp.llama_model_quantize(str(path).encode(), str(out).encode(), ctypes.byref(settings)):
        raise SystemExit(f"error: llama.cpp cannot quantize to {kind}")


def main(checkpoint: str, directory: str, kind: str, source: str) -> None:
    out = Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    whole = out / "f16.gguf"
    convert(Path(source), [checkpoint, "--outfile", str(whole), "--outtype", "f16"])
    convert(Path(source), [checkpoint, "--outfile", str(out / "mmproj.gguf"), "--outtype", "q8_0", "--mmproj"])
    quantize(whole, out / "model.gguf", kind)
    whole.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
