"""Times ONNX Runtime GenAI on a directory of `qvl-export export --layout genai`.

`set_inputs` runs the tower and the prompt together, so that they are not split.
"""

from __future__ import annotations

import json

import onnxruntime_genai as og
from measuring import Answer, Clock, Job, run


def open_model(job: Job):
    config = og.Config(job.model)
    threads = {"intra_op_num_threads": job.threads}
    sessions = {name: {"session_options": threads} for name in ("decoder", "vision", "embedding")}
    config.overlay(json.dumps({"model": sessions}))
    model = og.Model(config)
    tokenizer, processor = og.Tokenizer(model), model.create_multimodal_processor()

    def answer(image: str, text: str, tokens: int) -> Answer:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        clock = Clock()
        prompt = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        inputs = processor(prompt, images=og.Images.open(image))
        count = inputs["input_ids"].shape()[1]
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=count + tokens, min_length=count + tokens)
        generator = og.Generator(model, parameters)
        generator.set_inputs(inputs)
        while len(clock.times) < tokens and not generator.is_done():
            generator.generate_next_token()
            clock.token()
        return Answer(clock.first, clock.speed, count, len(clock.times))

    return answer


if __name__ == "__main__":
    run(("onnxruntime-genai", "onnxruntime"), open_model)
