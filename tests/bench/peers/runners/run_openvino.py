"""Times OpenVINO GenAI's pipeline for vision-language models."""

from __future__ import annotations

import numpy as np
import openvino
import openvino_genai
from measuring import Answer, Clock, Job, run
from PIL import Image


def open_model(job: Job):
    pipeline = openvino_genai.VLMPipeline(
        job.model, "CPU", INFERENCE_NUM_THREADS=job.threads, PERFORMANCE_HINT="LATENCY", **job.options
    )

    def answer(image: str, text: str, tokens: int) -> Answer:
        settings = openvino_genai.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = tokens, True, False
        clock = Clock()
        with Image.open(image) as page:
            pixels = openvino.Tensor(np.asarray(page.convert("RGB"))[None])

        def streamer(_: str) -> bool:
            return False

        found = pipeline.generate(text, images=[pixels], generation_config=settings, streamer=streamer)
        clock.token()
        figures = found.perf_metrics
        count = figures.get_num_generated_tokens()
        first = figures.get_ttft().mean / 1e3
        tower = figures.get_prepare_embeddings_duration().mean / 1e3
        # from the first token on, so that text which is held back does not count
        speed = (count - 1) / (clock.first - first) if count > 1 else 0.0
        return Answer(first, speed, figures.get_num_input_tokens(), count, tower, first - tower)

    return answer


if __name__ == "__main__":
    run(("openvino", "openvino-genai", "optimum-intel"), open_model)
