"""The process that tries out a template or a tokenizer for `vetting`: `python -I -S vet_child.py`, a JSON job on stdin.

It prints "started", then for every job its fault as a JSON string (empty: none). That it ends before is an answer too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import sys
import threading

MEMORY = 1 << 30
"""Bytes of address space, libraries included."""
SECONDS = 5
"""Of computing."""
WAIT = 50
"""Seconds after which it ends itself where computing cannot be limited."""
STACK = 1 << 20
"""Less than threads have where such files are used: what fits here fits there."""
MAX_OUTPUT = 1 << 20
"""Characters that a template may make of a probe, which has a few hundred."""
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
CONVERSATIONS = (
    [{"role": "user", "content": "Read the text."}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read the text."}]}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "image"}]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "c"}]},
    ],
)
LIBRARIES = {"template": "minijinja", "tokenizer": "tokenizers"}
LONG = 4096
TEXTS = ("Read the text. 読 1,234.5\r\n\t«é» don't 😀", " " * LONG, "\n" * LONG, "a" * LONG, "1" * LONG, "." * LONG)


def limit() -> None:
    """Bound memory and computing, where the system can."""
    faulthandler.dump_traceback_later(WAIT, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


def template_fault(source: str, special_tokens: dict[str, str]) -> str:
    """Render it for every conversation, with tools and without; that it fails for some messages is no fault."""
    from qvl_runtime.errors import PromptError
    from qvl_runtime.templates.engine import TemplateFault, compiled, rendered

    try:
        environment = compiled(source)
    except TemplateFault as fault:
        return str(fault)
    for messages in CONVERSATIONS:
        for tools in (None, TOOLS):
            given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
            try:
                text = rendered(environment, {**special_tokens, **given})
            except PromptError:
                continue
            except TemplateFault as fault:
                if "fuel" in str(fault):
                    return str(fault)
                continue
            if len(text) > MAX_OUTPUT:
                return f"it makes {len(text)} characters of a short conversation"
    return ""


def tokenizer_fault(pipeline: str) -> str:
    """Encode texts that patterns of words stumble over, and decode what comes of them."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(pipeline)
        for text in (*TEXTS, *(char * 256 + "\0!" for char in _characters(pipeline))):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.decode(ids[:LONG], skip_special_tokens=False)
    except BaseException as error:  # a panic is no Exception
        return f"it cannot encode a text: {(str(error).strip() or type(error).__name__).splitlines()[0][:200]}"
    return ""


def _characters(pipeline: str) -> list[str]:
    """Those in the patterns of a tokenizer, which texts of them may make go back and forth."""
    parts = json.loads(pipeline)
    written = json.dumps([parts.get("normalizer"), parts.get("pre_tokenizer"), parts.get("decoder")])
    return sorted(set(written))[:96]


def main() -> None:
    """A line for every job, in order: its fault as JSON, empty where there is none."""
    asked = json.load(sys.stdin)
    sys.path[:0] = asked["path"]
    limit()
    for name in asked["jobs"]:
        importlib.import_module(LIBRARIES[name])  # what cannot be imported says nothing of the job
    print("started", flush=True)
    for name, job in asked["jobs"].items():
        fault = template_fault(**job) if name == "template" else tokenizer_fault(job)
        print(json.dumps(fault), flush=True)


if __name__ == "__main__":
    threading.stack_size(STACK)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
