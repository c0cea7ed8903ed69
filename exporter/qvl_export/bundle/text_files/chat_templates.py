"""Chooses among a checkpoint's chat templates: the first one in transformers' order that places the image token.

Source of the order: `ProcessorMixin.get_processor_dict` of transformers 5, then what its tokenizers read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from qvl_runtime.errors import QvlError
from qvl_runtime.templates import vetting
from qvl_runtime.templates.chat import ChatTemplate

from ...checkpoint.directory import Checkpoint
from ...errors import ConfigError
from ...families.spec import ModelSpec

PROBE: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}]}]
COPY = "copy chat_template.json or chat_template.jinja from the base model"
JSON_FIRST, JSON_LAST = ("processor_config.json", "chat_template.json"), ("tokenizer_config.json",)
JINJA = ("chat_template.jinja", "additional_chat_templates/default.jinja")


class Candidate(NamedTuple):
    """A template, its file, and the reason why it cannot be used, if any."""

    source: str
    where: Path
    fault: str = ""


def choose(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    special_tokens: Mapping[str, str],
    say: Callable[[str], None],
) -> str:
    """Returns the template; `say` reports which were rejected, and why. Raises ConfigError if none is usable."""
    faults = dict[Path, str]()
    for candidate in _candidates(checkpoint, spec):
        fault = candidate.fault or _fault(candidate, spec, tokenizer, special_tokens)
        if not fault:
            for where, reason in faults.items():
                say(f"the chat template of {where.name} {reason}: the one of {candidate.where.name} is used")
            return candidate.source
        faults[candidate.where] = fault
    if not faults:
        raise ConfigError("has no chat template", where=checkpoint.directory, fix=COPY)
    (where, reason), *others = faults.items()
    also = "".join(f", and the one of {other.name} {fault}" for other, fault in others)
    raise ConfigError(reason + also, where=where, fix=COPY)


def _candidates(checkpoint: Checkpoint, spec: ModelSpec) -> Iterator[Candidate]:
    for name in JSON_FIRST:
        yield from _in_json(checkpoint, name)
    for name in JINJA:
        if source := checkpoint.text(name):
            yield Candidate(source, checkpoint.directory / name)
    for name in JSON_LAST:
        yield from _in_json(checkpoint, name)
    if spec.chat_template:
        yield Candidate(spec.chat_template, checkpoint.directory)


def _in_json(checkpoint: Checkpoint, name: str) -> Iterator[Candidate]:
    """Yields the template of a JSON file; of several named ones, the one called "default"."""
    value, where = (checkpoint.json(name) or {}).get("chat_template"), checkpoint.directory / name
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {str(item.get("name")): item.get("template") for item in value}
    if isinstance(value, dict) and value:
        names = ", ".join(map(str, value))
        value = value.get("default", next(iter(value.values())) if len(value) == 1 else None)
        if not isinstance(value, str):
            yield Candidate("", where, f"is none of several: {names}, and none is called default")
    if isinstance(value, str) and value:
        yield Candidate(value, where)


def _fault(candidate: Candidate, spec: ModelSpec, tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> str:
    """Returns why a template cannot be used; empty if it can."""
    job = vetting.template_job(candidate.source, special_tokens)
    if fault := vetting.faults({"template": job}):
        return f"cannot be rendered: {fault['template']}"
    try:
        rendered = ChatTemplate(candidate.source, candidate.where, special_tokens).render(PROBE)
    except QvlError as error:
        return error.what
    if tokenizer.encode(rendered, add_special_tokens=False).ids.count(spec.tokens.image) == 1:
        return ""
    return f"takes no images: it does not place token {spec.tokens.image}, config.json's image token"
