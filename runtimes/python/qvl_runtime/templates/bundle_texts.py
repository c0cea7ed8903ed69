"""Opens a bundle's text files, tokenizer and chat template, after vetting them (see `vetting`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from ..common.files import read_file
from ..errors import BundleError
from . import vetting
from .chat import ChatTemplate
from .tokenizer import parse_tokenizer, pipeline

MAX_BYTES = {"tokenizer.json": 128 << 20, "chat_template.jinja": 1 << 20}
"""Maximum file sizes: ten times those of the largest published vocabulary and the longest published template."""


def open_texts(bundle: Path, special_tokens: Mapping[str, str]) -> tuple[Tokenizer, ChatTemplate]:
    """Returns tokenizer and chat template; raises BundleError if one is damaged, malformed, or harms a process."""
    tokenizer_path, template_path = (bundle / name for name in MAX_BYTES)
    tokenizer, template = read_text(tokenizer_path), read_text(template_path)
    try:
        jobs = {"template": vetting.template_job(template, special_tokens), "tokenizer": pipeline(tokenizer)}
        faults = vetting.faults(jobs)
        if "template" in faults:
            raise BundleError(f"cannot be rendered: {faults['template']}", where=template_path)
        if "tokenizer" in faults:
            raise ValueError(faults["tokenizer"])
        return parse_tokenizer(tokenizer), ChatTemplate(template, template_path, special_tokens)
    except ValueError as error:
        raise BundleError(f"is not a tokenizer: {error}", where=tokenizer_path) from error


def read_text(path: Path) -> str:
    """Reads one of the two files; raises BundleError if it cannot be read or is too large."""
    try:
        return read_file(path, MAX_BYTES[path.name], BundleError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = "is not a tokenizer" if path.name == "tokenizer.json" else "cannot be read"
        raise BundleError(f"{what}: {error}", where=path) from error
