"""PyTorch as the reference: transformers in float32 on the CPU. No other module imports transformers.

Images go through the processor that the runtime matches bit for bit (the Pillow one, which needs no torchvision).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from qvl_runtime.errors import PromptError
from qvl_runtime.media.images import load_pages
from qvl_runtime.printable import first_line

from ... import families
from ...bundle.text_files import texts
from ...checkpoint.directory import Checkpoint
from ...common.arrays import Floats
from ...common.extras import install_fix
from ...errors import ConfigError, ExportError
from .records import Record

MAX_NEW_TOKENS = 512
NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
GREEDY = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}
"""Overrides the checkpoint's `generation_config.json`."""


class HfAnswerer:
    """A checkpoint in transformers, see `answerers.Answerer`; the runtime loads the pages."""

    def __init__(
        self,
        path: str,
        threads: int | None,
        template_args: Mapping[str, Any] = NO_ARGUMENTS,
        use_generation_config: bool = False,
    ) -> None:
        try:
            import torch  # noqa: TID251
            import transformers as untyped  # noqa: TID251
        except ImportError as error:
            raise ExportError("--reference hf needs transformers", fix=install_fix("hf")) from error
        transformers: Any = untyped
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        if threads:
            torch.set_num_threads(threads)
        self.torch, directory, self._recommended = torch, Path(path), use_generation_config
        try:
            loader = transformers.AutoModelForImageTextToText
            self.model: Any = loader.from_pretrained(directory, dtype=torch.float32).eval()
            self._images: Any = transformers.AutoImageProcessor.from_pretrained(directory, backend="pil")
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"transformers cannot load it: {first_line(error)[:300]}", where=path) from error
        checkpoint = Checkpoint(directory)
        self._template = texts.read(checkpoint, families.read_spec(checkpoint)).template
        self._template_args = template_args

    def inputs(self, messages: list[dict[str, Any]]) -> Any:
        """Returns tokens and pixels of messages whose images are paths; expands placeholders to their image tokens."""
        text = self._rendered(messages)
        found = self._images(images=self._pages(messages), return_tensors="pt")
        repeats = iter((found["image_grid_thw"].prod(-1) // self._images.merge_size**2).tolist())
        image, ids = self.model.config.image_token_id, []
        for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]:
            ids += [token] * (next(repeats) if token == image else 1)
        found["input_ids"] = self.torch.tensor([ids])
        found["attention_mask"] = self.torch.ones_like(found["input_ids"])
        found["mm_token_type_ids"] = (found["input_ids"] == image).int()
        return found

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        """Renders messages by transformers, with the exporter's template, which its tokenizer may not have."""
        options = {"add_generation_prompt": True, "tokenize": False, "chat_template": self._template}
        try:
            return str(self._tokenizer.apply_chat_template(messages, **options, **self._template_args))
        except Exception as error:
            if not type(error).__module__.startswith("jinja2"):
                raise
            raise PromptError(f"transformers cannot render the chat template: {str(error)[:300]}") from error

    def _pages(self, messages: list[dict[str, Any]]) -> list[Any]:
        parts = [part for message in messages for part in message["content"] if part["type"] == "image"]
        return [page for part in parts for page in load_pages(part["image"])]

    def answer(self, messages: list[dict[str, Any]], limit: int | None) -> Record:
        inputs, page, clock = self.inputs(messages), self._pages(messages)[0], _Clock()
        limit = MAX_NEW_TOKENS if limit is None else limit
        self.torch.manual_seed(0)
        options = {} if self._recommended else GREEDY
        with self.torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=limit, streamer=clock, **options)
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        stop = self.model.generation_config.eos_token_id
        stopped = tokens[-1:] != [] and tokens[-1] in (stop if isinstance(stop, list) else [stop])
        grid, patch = inputs["image_grid_thw"][0].tolist(), self._images.patch_size
        return Record(
            answer=self._tokenizer.decode(tokens, skip_special_tokens=True),
            tokens=tokens,
            finish_reason="stop" if stopped else "length",
            first_token_seconds=round(clock.first, 5),
            decode_seconds=round(clock.seconds() - clock.first, 5),
            size=page.size,
            resized=(grid[2] * patch, grid[1] * patch),
        )

    def logits(self, messages: list[dict[str, Any]], tokens: list[int]) -> Floats:
        inputs = self.inputs(messages)
        start = inputs["input_ids"].shape[1]
        answer = self.torch.tensor([tokens])
        for name, value in inputs.items():
            if value.ndim == 2 and value.shape[1] == start:  # ids, mask, token types
                tail = answer if name == "input_ids" else self.torch.full_like(answer, int(name == "attention_mask"))
                inputs[name] = self.torch.cat((value, tail.to(value.dtype)), 1)
        with self.torch.inference_mode():
            logits = self.model(**inputs).logits[0, start - 1 : -1]
        return np.asarray(logits.float().numpy())

    def clear_cache(self) -> None:
        """Does nothing: there is no state between calls."""

    def prefill(self, messages: list[dict[str, Any]], limit: int | None) -> None:
        """Does nothing, see `clear_cache`."""


class _Clock:
    """A streamer for `generate`: the first call to `put` is the prompt, the second the first token."""

    def __init__(self) -> None:
        self._began, self._calls, self.first = time.perf_counter(), 0, 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def put(self, _: Any) -> None:
        self._calls += 1
        if self._calls == 2:
            self.first = self.seconds()

    def end(self) -> None:
        pass
