"""`--save-gptq`: writes the quantized decoder as a checkpoint in the layout of auto-gptq and GPTQModel.

The format is described in `quantized.gptq`, which reads it. Everything but the quantized decoder linears is copied
unchanged from the source: other tensors bit for bit, tokenizer, processor and chat template. Names are those of
transformers 5, the only ones that GPTQModel finds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..._version import __version__
from ...common import atomic_output as atomic
from ...errors import ConfigError, OutputError
from ...qtensor import QTensor, QuantFormat
from ..directory import Checkpoint
from ..safetensors_reader import Array
from ..safetensors_writer import Advance, TensorValues, nbytes, write
from ..tensor_names import nested_name
from .detect import QuantizedSource
from .packed_words import pack_words

CONFIG = "quantize_config.json"
"""auto-gptq's configuration file; a directory that has one is a GPTQ checkpoint and may be replaced with --force."""
GPTQ = atomic.OutputKind("a GPTQ checkpoint", (CONFIG,))
COPIED = (".json", ".jinja", ".txt", ".tiktoken")
WORD = 8
"""int4 codes per int32: rows and columns of a linear must be multiples of it."""
Linears = Mapping[str, QuantizedSource]
Begin = Callable[[str, int], None]


@dataclass(frozen=True)
class _Part:
    """One tensor of a quantized linear, computed when it is written."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    make: Callable[[], Array]

    def chunks(self) -> Iterator[Array]:
        yield np.ascontiguousarray(self.make())


def decoder_linears(linears: Linears) -> dict[str, QuantizedSource]:
    """Returns the linears that the format quantizes: embedding and head stay float."""
    return {name: linear for name, linear in linears.items() if name.startswith("model.layers.")}


def check_output(out: Path, bundle_out: Path, force: bool) -> None:
    """Raises OutputError before the long work if the checkpoint cannot be written to `out`."""
    ours, theirs = out.resolve(), bundle_out.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise OutputError(
            "must not contain OUT or lie in it", where=out, fix="choose another directory for --save-gptq"
        )
    atomic.check_free(out, force, GPTQ)


def check(linears: Linears) -> None:
    """Raises ConfigError before the long work for shapes that the format does not support."""
    for name, linear in decoder_linears(linears).items():
        block = linear.format().block
        if linear.rows % WORD or linear.columns % WORD or linear.columns % block:
            raise ConfigError(
                f"{name} [{linear.rows}, {linear.columns}] does not fit the GPTQ format in groups of {block}",
                fix="give a --block-size that divides its columns, or leave --save-gptq out",
            )


def save(directory: Path, checkpoint: Checkpoint, linears: Linears, begin: Begin, advance: Advance) -> None:
    """Writes the checkpoint to a directory, one tensor at a time."""
    quantized = decoder_linears(linears)
    checkpoint_format = _checkpoint_format(quantized)
    tensors = dict(_tensors(checkpoint, quantized, checkpoint_format))
    config = quantization_config(next(iter(quantized.values())).format(), checkpoint_format)
    begin("writing the GPTQ checkpoint", sum(map(nbytes, tensors.values())))
    _copy_texts(checkpoint.directory, directory)
    _write_json(directory / "config.json", {**checkpoint.config, "quantization_config": config})
    _write_json(directory / CONFIG, config)
    write(directory, tensors, advance)


def quantization_config(format: QuantFormat, checkpoint_format: str) -> dict[str, Any]:
    """Returns the configuration that auto-gptq, GPTQModel and transformers read, under the name that each uses."""
    return {
        "bits": format.bits,
        "group_size": format.block,
        "desc_act": False,
        "sym": not format.asymmetric,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": checkpoint_format,
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"qvl-export:{__version__}"], "static_groups": True},
    }


def _checkpoint_format(linears: Linears) -> str:
    """Returns "gptq", which stores zero points minus one, or "gptq_v2" if a zero point is 0."""
    zeros = (linear.read().zeros for linear in linears.values() if linear.format().asymmetric)
    return "gptq_v2" if any(stored is not None and (stored == 0).any() for stored in zeros) else "gptq"


def _tensors(checkpoint: Checkpoint, linears: Linears, checkpoint_format: str) -> Iterator[tuple[str, TensorValues]]:
    """Yields tensors in the source's order; the parts of a quantized linear replace its weight."""
    for name, tensor in checkpoint.tensors.items():
        linear = linears.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if linear is None:
            yield nested_name(name), tensor
        else:
            yield from _parts(nested_name(name.removesuffix(".weight")), linear, checkpoint_format)


def _parts(name: str, linear: QuantizedSource, checkpoint_format: str) -> Iterator[tuple[str, TensorValues]]:
    """Yields a linear's four tensors; as files are ordered by element width, a linear may be read twice."""
    format = linear.format()
    rows, columns, groups = linear.rows, linear.columns, linear.columns // format.block
    per_word, minus = 32 // format.bits, int(checkpoint_format == "gptq")

    @lru_cache(maxsize=1)
    def read() -> QTensor:
        return linear.read()

    def zeros() -> Array:
        stored = read().zeros
        whole = np.full((rows, groups), format.default_zero_point, np.uint8) if stored is None else stored
        return pack_words(whole.T - np.uint8(minus), format.bits, axis=1)

    def part(dtype: type[np.generic], shape: tuple[int, ...], make: Callable[[], Array]) -> _Part:
        return _Part(np.dtype(dtype), shape, make)

    def codes() -> Array:
        return pack_words(read().codes.T, format.bits, axis=0)

    yield f"{name}.qweight", part(np.int32, (columns // per_word, rows), codes)
    yield f"{name}.qzeros", part(np.int32, (groups, rows // per_word), zeros)
    yield f"{name}.g_idx", part(np.int32, (columns,), lambda: np.arange(columns, dtype=np.int32) // format.block)
    yield f"{name}.scales", part(np.float16, (groups, rows), lambda: read().scales.T)


def _copy_texts(source: Path, directory: Path) -> None:
    """Copies tokenizer, processor, chat template, generation config and license texts, but not the old shard index."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in COPIED and not path.name.endswith(".index.json"):
            shutil.copyfile(path, directory / path.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
