"""Times this project's runtime. `options`: `prune`, a rule or absent."""

from __future__ import annotations

import time

from measuring import Answer, Job, run

from qvl_runtime import load


def open_bundle(job: Job):
    model = load(job.model, job.threads, job.options.get("prune", "off"))

    def answer(image: str, text: str, tokens: int) -> Answer:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        model.clear()
        began = time.perf_counter()
        stream = model.stream([{"role": "user", "content": parts}], max_new_tokens=tokens, ignore_eos=True)
        built = time.perf_counter() - began
        for _ in stream:
            pass
        seconds, counts, times = time.perf_counter() - began, stream.run.counts, stream.run.times
        first = built + times.first_token
        return Answer(
            first=first,
            # by the clock, as other runtimes are timed: with what happens between the calls of the graph
            speed=(counts.generated - 1) / (seconds - first),
            prompt_tokens=counts.prompt,
            answer_tokens=counts.generated,
            tower=first - times.prefill,
            prompt=times.prefill,
            pruned_tokens=counts.pruned,
        )

    return answer


if __name__ == "__main__":
    run(("onnxruntime", "qvl-runtime"), open_bundle)
