"""Times transformers on PyTorch. `options`: `dtype`."""

from __future__ import annotations

import time

import torch
from measuring import Answer, Clock, Job, chat, run
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

PLACEHOLDER = "<|image_pad|>"


class Times:
    """A streamer that notes when tokens come; the first call is the prompt."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seen = clock, False

    def put(self, _: object) -> None:
        if self.seen:
            self.clock.token()
        self.seen = True

    def end(self) -> None: ...


class Tower:
    """Adds up the seconds of the vision tower."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seconds, self.began = 0.0, 0.0
        module.register_forward_pre_hook(self.start)
        module.register_forward_hook(self.stop)

    def start(self, *_: object) -> None:
        self.began = time.perf_counter()

    def stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.began


def open_model(job: Job):
    torch.set_num_threads(job.threads)
    dtype = getattr(torch, job.options["dtype"])
    model = AutoModelForImageTextToText.from_pretrained(job.model, dtype=dtype, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    images = AutoImageProcessor.from_pretrained(job.model, backend="pil")  # the other one needs torchvision
    tower = Tower(model.model.visual)

    @torch.inference_mode()
    def answer(image: str, text: str, tokens: int) -> Answer:
        tower.seconds = 0.0
        clock = Clock()
        with Image.open(image) as page:
            inputs = dict(images(images=[page.convert("RGB")], return_tensors="pt"))
        tokens_of_image = int(inputs["image_grid_thw"].prod()) // images.merge_size**2
        media = f"<|vision_start|>{PLACEHOLDER * tokens_of_image}<|vision_end|>"
        inputs |= dict(tokenizer(chat(media, text), return_tensors="pt"))
        prepared = time.perf_counter() - clock.began
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, streamer=Times(clock))
        seconds = tower.seconds + prepared
        count = inputs["input_ids"].shape[1]
        return Answer(clock.first, clock.speed, count, len(clock.times), seconds, clock.first - seconds)

    return answer


if __name__ == "__main__":
    run(("torch", "transformers"), open_model)
