"""Reads the checkpoint's recommended generation settings (`generation_config.json`) and names those it drops.

Stop tokens are read with the other special tokens, by the families.
"""

from __future__ import annotations

from typing import Any

import msgspec

from qvl_runtime.manifest import GenerationDefaults

from .directory import Checkpoint

FILE = "generation_config.json"
KNOWN = frozenset(field.name for field in msgspec.structs.fields(GenerationDefaults))
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "length_penalty": 1,
    "diversity_penalty": 0,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "penalty_alpha": 0,
    "typical_p": 1,
    "top_h": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "stop_strings": [],
}
"""Unsupported settings, with the values at which they have no effect."""
INERT = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"),
    *("max_length", "max_window_size", "chat_format", "early_stopping", "trust_remote_code", "low_memory"),
    *("use_cache", "cache_implementation", "cache_config", "return_legacy_cache", "prefill_chunk_size"),
    *("return_dict_in_generate", "renormalize_logits", "remove_invalid_values", "disable_compile", "compile_config"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "is_assistant"),
    *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens"),
    *("max_matching_ngram_size", "token_healing", "continuous_batching_config"),
}
"""Settings that do not affect an answer's tokens, and those that are read elsewhere."""


def read(checkpoint: Checkpoint) -> tuple[GenerationDefaults, list[str]]:
    """Returns the recommended settings, and the dropped ones, which are unsupported or out of range.

    If there is no `generation_config.json`, they are read from `config.json`, as in old checkpoints.
    """
    given = {name: value for name, value in _settings(checkpoint).items() if value is not None}
    kept = {name: value for name, value in given.items() if name in KNOWN and _valid(name, value)}
    ignored = kept.keys() | INERT
    dropped = [
        f"{name} {value!r:.40}"
        for name, value in given.items()
        if name not in ignored and not name.startswith(("_", "output_")) and value != NEUTRAL.get(name)
    ]
    return msgspec.convert(kept, GenerationDefaults), dropped


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    found = checkpoint.json(FILE)
    if found is None:
        found = {name: value for name, value in checkpoint.config.items() if name in KNOWN | NEUTRAL.keys()}
    return found


def _valid(name: str, value: Any) -> bool:
    try:
        msgspec.convert({name: value}, GenerationDefaults)
    except msgspec.ValidationError:
        return False
    return True
