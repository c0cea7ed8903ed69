"""Times llama.cpp through its Python binding, images by libmtmd."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import llama_cpp
from llama_cpp import mtmd_cpp as mtmd
from measuring import Answer, Clock, Job, chat, run

CONTEXT = 4096
BATCH = 2048


def check(status: int, action: str) -> None:
    if status:
        raise SystemExit(f"llama.cpp: {action} failed with {status}")


class Reader:
    """A loaded model with its vision tower."""

    def __init__(self, job: Job) -> None:
        self.llama = llama_cpp.Llama(
            str(Path(job.model) / "model.gguf"), n_ctx=CONTEXT, n_batch=BATCH, n_threads=job.threads,
            n_threads_batch=job.threads, verbose=False, **job.options,
        )  # fmt: skip
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.n_threads = False, False, job.threads
        tower = str(Path(job.model) / "mmproj.gguf").encode()
        self.tower = mtmd.mtmd_init_from_file(tower, self.llama.model, params)
        if not self.tower:
            raise SystemExit("llama.cpp cannot open mmproj.gguf")
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama.model)

    def chunks(self, image: str, text: str):
        """The prompt cut into runs of text and the image."""
        data = Path(image).read_bytes()
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(self.tower, buffer, len(data), False)
        prompt = chat(mtmd.mtmd_default_marker().decode(), text).encode()
        found = mtmd.mtmd_input_chunks_init()
        given = mtmd.mtmd_input_text(text=prompt, text_len=len(prompt), add_special=False, parse_special=True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        check(mtmd.mtmd_tokenize(self.tower, found, ctypes.byref(given), bitmaps, 1), "tokenizing")
        mtmd.mtmd_bitmap_free(bitmap)
        return found

    def prefill(self, chunks) -> tuple[int, float]:
        """Runs the prompt; returns its tokens, and the seconds of the tower."""
        position, tokens, seconds = ctypes.c_int32(0), 0, 0.0
        count = mtmd.mtmd_input_chunks_size(chunks)
        for index in range(count):
            chunk, last = mtmd.mtmd_input_chunks_get(chunks, index), index == count - 1
            tokens += mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
                status = mtmd.mtmd_helper_eval_chunk_single(
                    self.tower, self.llama.ctx, chunk, position, 0, BATCH, last, ctypes.byref(position)
                )
                check(status, "reading text")
                continue
            began = time.perf_counter()
            check(mtmd.mtmd_encode_chunk(self.tower, chunk), "encoding the image")
            seconds += time.perf_counter() - began
            features = mtmd.mtmd_get_output_embd(self.tower)
            status = mtmd.mtmd_helper_decode_image_chunk(
                self.tower, self.llama.ctx, chunk, features, position, 0, BATCH, ctypes.byref(position),
                mtmd.mtmd_helper_post_decode_callback(), None,
            )  # fmt: skip
            check(status, "reading the image")
        return tokens, seconds

    def answer(self, image: str, text: str, tokens: int) -> Answer:
        self.llama.reset()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.llama.ctx), True)
        greedy = llama_cpp.llama_sampler_init_greedy()
        clock = Clock()
        chunks = self.chunks(image, text)
        prepared = time.perf_counter() - clock.began
        count, tower = self.prefill(chunks)
        tower += prepared
        token = ctypes.c_int32(llama_cpp.llama_sampler_sample(greedy, self.llama.ctx, -1))
        clock.token()
        for _ in range(tokens - 1):
            batch = llama_cpp.llama_batch_get_one(ctypes.pointer(token), 1)
            check(llama_cpp.llama_decode(self.llama.ctx, batch), "generating")
            token = ctypes.c_int32(llama_cpp.llama_sampler_sample(greedy, self.llama.ctx, -1))
            clock.token()
        mtmd.mtmd_input_chunks_free(chunks)
        return Answer(clock.first, clock.speed, count, len(clock.times), tower, clock.first - tower)


if __name__ == "__main__":
    run(("llama-cpp-python",), lambda job: Reader(job).answer)
