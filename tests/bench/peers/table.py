"""The results as Markdown: one table a shape, what could not be measured, and how cost grows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEAD = (
    "| | first token, s (tower + prompt) | answer, tokens/s | peak, MB |",
    "|---|---|---|---|",
)


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def first(row: dict[str, Any]) -> str:
    """Seconds to the first token, with their parts if the runtime says them."""
    parts = f" ({number(row['tower'])} + {number(row['prompt'])})" if row["tower"] is not None else ""
    return number(row["first"]) + parts


def label(row: dict[str, Any]) -> str:
    """The line's name; of pruned ones also how many of the image tokens were left out."""
    if not row["prune"]:
        return f"{row['runtime']} {row['precision']}"
    total = row["pruned_tokens"] + row["prompt_tokens"]
    return f"… `--prune`, {row['page']} page ({row['pruned_tokens']} of {total} tokens left out)"


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The table of one shape: measured peers, each of ours followed by its pruned runs, then the reasons."""
    yield from HEAD
    measured = [row for row in rows if "reason" not in row]
    whole = [row for row in measured if not row["prune"]]
    for row in whole:
        pruned = [other for other in measured if other["prune"] and same(row, other)]
        for each in (row, *pruned):
            yield f"| {label(each)} | {first(each)} | {number(each['speed'])} | {number(each['peak_mb'], 0)} |"
    for row in rows:
        if "reason" in row:
            yield f"| {row['name']} | not measured: {row['reason'].replace('|', '/')} | | |"


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return (row["runtime"], row["precision"]) == (other["runtime"], other["precision"])


def versions(rows: list[dict[str, Any]]) -> str:
    """Every library's version once."""
    found = {name: version for row in rows for name, version in row.get("versions", {}).items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def load(rows: list[dict[str, Any]]) -> str:
    """How busy the machine was beside the runs."""
    measured = [row for row in rows if "reason" not in row]
    stolen = max((row["stolen"] for row in measured), default=0.0)
    average = max((row["load_average"] for row in measured), default=0.0)
    return f"taken by the host at most {100 * stolen:.1f} % of the time; load average before runs at most {average:.1f}"


def growth(rows: list[dict[str, Any]]) -> Iterator[str]:
    """How the parts grow, in GFLOP/s and GB/s too, so that they can be held against the machine's peaks."""
    yield "| | varied | tower, s | GFLOP/s | prompt, s | GFLOP/s | answer, tokens/s | GB/s |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['name']} | {row['varied']} | {number(row['tower'], 2)} | {number(row['tower_gflops'], 0)} "
            f"| {number(row['prompt'], 2)} | {number(row['prompt_gflops'], 0)} "
            f"| {number(row['speed'])} | {number(row['gb_per_second'])} |"
        )


def markdown(results: dict[str, Any]) -> str:
    """Everything, as it stands in docs/peers.md."""
    machine, peaks = results["machine"], results.get("peaks", {})
    parts = [f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB · {machine['date']}\n"]
    if peaks:
        parts.append(
            f"Peaks: {number(peaks['float32_gflops'], 0)} GFLOP/s of float32 products, "
            f"{number(peaks['int8_gops'], 0)} GOP/s of int8 products, "
            f"{number(peaks['memory_gb_per_second'])} GB/s of memory.\n"
        )
    for shape, rows in results["shapes"].items():
        parts += [f"### {shape}\n", *lines(rows), "", f"{versions(rows)}; {load(rows)}.\n"]
    if results.get("growth"):
        parts += ["### Growth\n", *growth(results["growth"]), ""]
    return "\n".join(parts)
