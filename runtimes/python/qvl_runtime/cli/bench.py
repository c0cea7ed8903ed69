"""The command `bench`: times a prompt on a freshly loaded bundle."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.standard_streams import print_json, put
from ..errors import SlowProductsWarning
from .command import PromptCommand, prompt_argument
from .messages import MediaOptions, build_messages
from .options import (
    bundle_argument,
    check_prune,
    device_option,
    generation_config_option,
    media_options,
    positive,
    prune_option,
    template_args_option,
    threads_option,
    verbose,
)
from .report import report

if TYPE_CHECKING:
    from ..model import Model

PROMPT = "Read the text."
EXAMPLES = ("bench bundle --image page.png", "bench bundle --image page.png --threads 2 --repeat 5 --json")


@click.command(cls=PromptCommand, examples=EXAMPLES)
@bundle_argument
@prompt_argument
@media_options
@prune_option
@click.option("--repeat", type=positive, default=3, show_default=True, metavar="N",
              help="Runs; the medians of their times are printed.")  # fmt: skip
@click.option("--max-new-tokens", type=positive, default=32, show_default=True, metavar="N",
              help="Tokens to generate per run.")  # fmt: skip
@generation_config_option
@template_args_option
@threads_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbose
def bench(
    bundle: Path, prompt: str | None, media: MediaOptions, prune: Any, repeat: int, template_args: tuple[str, ...],
    threads: int | None, device: str | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Time loading, image encoding, prefill and generation.

    PROMPT is "Read the text." if it is omitted. Write -- before a PROMPT that begins with a dash.
    """
    from ..model import load
    from ..templates.chat import parse_arguments

    settings["template_args"] = parse_arguments(template_args)
    check_prune(prune, media)
    messages = build_messages(media, prompt or PROMPT)
    loads, runs = [], []
    with warnings.catch_warnings():
        for _ in range(repeat):
            began = time.perf_counter()
            with load(bundle, threads, prune, device) as model:
                loads.append(time.perf_counter() - began)
                runs.append(_answer(model, messages, settings))
            warnings.simplefilter("ignore", SlowProductsWarning)  # the first load has said it
    _print(_medians(loads, runs), as_json)


def _answer(model: Model, messages: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Answers on a freshly loaded model, so without cached features or keys; returns the statistics."""
    stream = model.stream(messages, seed=0, ignore_eos=True, **settings)
    for _ in stream:
        pass
    return report(stream.run)


def _medians(loads: list[float], runs: list[dict[str, Any]]) -> dict[str, Any]:
    import statistics

    speeds = [run["tokens_per_second"] for run in runs if run["tokens_per_second"] is not None]
    return {
        "load_seconds": round(statistics.median(loads), 3),
        "seconds": {
            key: round(statistics.median(run["seconds"][key] for run in runs), 4) for key in runs[0]["seconds"]
        },
        "tokens_per_second": round(statistics.median(speeds), 2) if speeds else None,
        "prompt_tokens": runs[0]["counts"]["prompt"],
        "image_tokens": runs[0]["counts"]["image"],
        "pruned_tokens": runs[0]["counts"]["pruned"],
        "peak_memory_mb": _peak_memory_mb(),
        "repeat": len(runs),
    }


def _peak_memory_mb() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    seconds = {"load": result.pop("load_seconds"), **result.pop("seconds")}
    flat = {**{f"{key} (s)": value for key, value in seconds.items()}, **result}
    put("\n".join(f"{key:18} {value}" for key, value in flat.items() if value is not None))
