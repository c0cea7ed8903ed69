"""The child process that tries templates and tokenizers for `vetting`: `python -I -S vet_child.py`, JSON jobs on stdin.

It prints "started", then one line per job: its fault as a JSON string (empty: none). Ending early is a fault too.
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
"""Limit of address space in bytes, libraries included."""
SECONDS = 5
"""Limit of CPU time in seconds."""
WAIT = 50
"""Seconds after which the process ends itself, in case CPU time cannot be limited."""
STACK = 1 << 20
"""Stack bytes of the testing thread: smaller than the stacks of threads that use such files later."""
MAX_OUTPUT = 1 << 20
"""Maximum characters of a rendered test conversation, which itself has a few hundred."""
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
    """Limits memory and CPU time if the system supports it, and wall time in any case."""
    faulthandler.dump_traceback_later(WAIT, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for kind, maximum in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (maximum, maximum))


def template_fault(source: str, special_tokens: dict[str, str]) -> str:
    """Renders every conversation with and without tools and returns a fault; rejecting some messages is not one."""
    from qvl_runtime.errors import PromptError
    from qvl_runtime.templates.engine import TemplateFault, compile_template, render_template

    try:
        environment = compile_template(source)
    except TemplateFault as fault:
        return str(fault)
    for messages in CONVERSATIONS:
        for tools in (None, TOOLS):
            given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
            try:
                text = render_template(environment, {**special_tokens, **given})
            except PromptError:
                continue
            except TemplateFault as fault:
                if "fuel" in str(fault):
                    return str(fault)
                continue
            if len(text) > MAX_OUTPUT:
                return f"it renders a short conversation as {len(text)} characters"
    return ""


def tokenizer_fault(pipeline: str) -> str:
    """Encodes texts that are hard for regular expressions, decodes the tokens, and returns a fault or an empty text."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(pipeline)
        for text in (*TEXTS, *(char * 256 + "\0!" for char in _characters(pipeline))):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.decode(ids[:LONG], skip_special_tokens=False)
    except BaseException as error:  # a panic is not an Exception
        return f"it cannot encode a text: {(str(error).strip() or type(error).__name__).splitlines()[0][:200]}"
    return ""


def _characters(pipeline: str) -> list[str]:
    """Returns the characters in a tokenizer's patterns: repeated, they may cause excessive backtracking."""
    parts = json.loads(pipeline)
    written = json.dumps([parts.get("normalizer"), parts.get("pre_tokenizer"), parts.get("decoder")])
    return sorted(set(written))[:96]


def main() -> None:
    """Prints one line per job, in order: its fault as a JSON string, empty if there is none."""
    request = json.load(sys.stdin)
    sys.path[:0] = request["path"]
    limit()
    for name in request["jobs"]:
        importlib.import_module(LIBRARIES[name])  # a failed import says nothing about the job
    print("started", flush=True)
    for name, job in request["jobs"].items():
        fault = template_fault(**job) if name == "template" else tokenizer_fault(job)
        print(json.dumps(fault), flush=True)


if __name__ == "__main__":
    threading.stack_size(STACK)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
