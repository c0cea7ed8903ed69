"""Finds the linears that a checkpoint stores quantized, and the names of their stored tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...errors import ConfigError
from ...qtensor import QTensor, QuantFormat
from .. import foreign_formats as foreign
from ..directory import Checkpoint
from ..safetensors_reader import QUANTIZED, StoredTensor, Tensor, element_type
from ..unused_tensors import heads
from . import awq as awq_checkpoint
from . import gptq as gptq_checkpoint
from . import packed_words as qweight


class QuantizedSource(Protocol):
    """A quantized linear [rows, columns] that is read on demand."""

    @property
    def file(self) -> Path: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def format(self) -> QuantFormat: ...
    def read(self) -> QTensor: ...


class QuantizationConfig(Protocol):
    """How a checkpoint's linears are quantized."""

    def linear(self, name: str, tensors: Mapping[str, StoredTensor]) -> QuantizedSource: ...


METHODS: dict[str, Callable[[dict[str, Any], Path], QuantizationConfig]] = {
    "gptq": gptq_checkpoint.read_config,
    "awq": awq_checkpoint.read_config,
}


WHEN_LOADED = ("bitsandbytes", "eetq", "fbgemm_fp8", "fp8", "finegrained_fp8", "hqq", "quanto", "torchao")
"""Methods that can quantize float weights at load time: their configuration may accompany float weights."""


def quantized_linears(checkpoint: Checkpoint) -> dict[str, QuantizedSource]:
    """Returns the linears that the checkpoint stores quantized, by name; raises ConfigError unless by GPTQ or AWQ.

    Call it before using any tensor: those of other methods cannot be read.
    """
    raw, where = _quantization_config(checkpoint)
    foreign.refuse_mlx_config(checkpoint.config, where)
    if not raw:
        return {}
    method = _method(raw)
    if method in WHEN_LOADED and not _holds_codes(checkpoint.tensors):
        checkpoint.notes.append(f"config.json names {method}, but the weights are floats: they are exported so")
        return {}
    read_config = METHODS.get(method)
    if read_config is None:
        raise ConfigError(f"weights quantized by {method!r} are not supported", where=where, fix=foreign.FLOAT_RELEASE)
    found = qweight.names(checkpoint.tensors)
    unused = set(heads(found))
    names = [name for name in found if name not in unused]
    _check_quantized(names, raw, where)
    config = read_config(raw, where)
    return {name: config.linear(name, checkpoint.tensors) for name in names}


def _method(raw: Mapping[str, Any]) -> str:
    """Returns the method by transformers' key, else by GPTQModel's; auto-gptq's own file has neither."""
    old = "bitsandbytes" if {"load_in_8bit", "load_in_4bit"} & set(raw) else "gptq"
    return str(raw.get("quant_method") or raw.get("method") or old).lower()


def _holds_codes(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether any weights are stored in a quantized element type."""
    return any(element_type(tensor) in QUANTIZED for tensor in tensors.values())


def _check_quantized(names: Iterable[str], raw: Mapping[str, Any], where: Path) -> None:
    """Raises ConfigError for quantization that graphs do not support."""
    if any(name.endswith("lm_head") for name in names):
        raise ConfigError("a quantized lm_head is not supported", where=where, fix=foreign.FLOAT_RELEASE)
    if any(".experts." in name for name in names):
        raise ConfigError(
            "experts quantized one by one are not supported", where=where, fix="export the bfloat16 or float16 release"
        )
    dynamic = raw.get("dynamic")
    for pattern, values in dynamic.items() if isinstance(dynamic, dict) else ():
        said = values if isinstance(values, dict) else {}
        changed = [key for key in ("bits", "group_size", "sym") if said.get(key, raw.get(key)) != raw.get(key)]
        if changed and not pattern.startswith("-:"):
            raise ConfigError(
                f"quantization_config.dynamic gives other {', '.join(changed)} to {pattern!r}, which is not supported",
                where=where,
                fix=foreign.FLOAT_RELEASE,
            )


def zero_biases(linears: Iterable[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of all-zero biases, which auto-gptq and GPTQModel write for linears without a bias."""
    stored = (f"{name}.bias" for name in linears)
    return [name for name in stored if name in tensors and not any(chunk.any() for chunk in tensors[name].chunks())]


def _quantization_config(checkpoint: Checkpoint) -> tuple[dict[str, Any] | None, Path]:
    """Returns a checkpoint's quantization configuration and its file."""
    where, nested = checkpoint.directory / "config.json", checkpoint.config.get("text_config")
    raw = checkpoint.config.get("quantization_config")
    if raw is None and isinstance(nested, dict):
        raw = nested.get("quantization_config")
    if raw is None:
        raw, where = checkpoint.json("quantize_config.json"), checkpoint.directory / "quantize_config.json"
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError("quantization_config is not an object", where=where)
    return raw, where


def stored_names(linears: Iterable[str]) -> list[str]:
    """Returns the possible source tensors of quantized linears: their own parts, or a float weight, or experts'."""
    return [stored for name in linears for stored in (name, *(f"{name}.{part}" for part in (*qweight.FORMS, "weight")))]
