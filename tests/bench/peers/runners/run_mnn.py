"""Times MNN's engine for language models, which measures itself."""

from __future__ import annotations

from pathlib import Path

from measuring import Answer, Clock, Job, chat, run
from MNN import llm

MICRO = 1e-6


def open_model(job: Job):
    model = llm.create(str(Path(job.model) / "config.json"))
    model.set_config({"thread_num": job.threads, "sampler_type": "greedy", "use_template": False})
    model.load()

    def answer(image: str, text: str, tokens: int) -> Answer:
        model.reset()
        model.set_config({"max_new_tokens": tokens})
        clock = Clock()
        model.response(chat(f"<img>{image}</img>", text), False)
        clock.token()
        figures = model.context
        figures.refresh()
        decode = figures.decode_us * MICRO
        first = clock.first - decode
        count = figures.gen_seq_len
        return Answer(
            first=first,
            speed=(count - 1) / decode if decode else 0.0,
            prompt_tokens=figures.prompt_len,
            answer_tokens=count,
            tower=first - figures.prefill_us * MICRO,
            prompt=figures.prefill_us * MICRO,
        )

    return answer


if __name__ == "__main__":
    run(("MNN",), open_model)
