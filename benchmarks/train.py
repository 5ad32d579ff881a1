"""Stage-2 training on the CPU: tokens a second, two logits at one position against logits for every position."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from statistics import median
from typing import Any

from benchmarks.figures import Bar, Report, largest_gap, ratios

SUMMARY = (
    "The same optimizer step (forward, backward, clipping, AdamW; float32) on the same Qwen3 model and rows, by turns: "
    "as the finetune stage does it, and with the usual forward's logits of every position, of which two are used."
)
HEADERS = ("step", "tokens/s, median", "range", "s a step", "rounds")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=8, help="steps of each kind (default 8, after one to warm up)")
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row (default 512)")
    parser.add_argument("--width", type=int, default=256, help="hidden size of the four layers (default 256)")
    parser.add_argument("--threads", type=int, default=1, help="one (default) keeps a busy second core out of it")


def run(arguments: Namespace) -> Report:
    asked = {name: getattr(arguments, name) for name in ("rounds", "vocabulary", "rows", "tokens", "width", "threads")}
    command = [sys.executable, "-m", "benchmarks.train_steps", json.dumps(asked)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return report(json.loads(done.stdout), asked)


def report(measured: dict[str, Any], asked: dict[str, int]) -> Report:
    """The table and the promise, from seconds a step and losses by kind of step."""
    tokens = asked["rows"] * asked["tokens"]
    rates = {name: [tokens / seconds for seconds in measured[name]["seconds"]] for name in ("ours", "full")}
    names = {"ours": "two logits at one position", "full": "logits for every position"}
    rows = [
        (
            names[name],
            f"{median(rate):,.0f}",
            f"{min(rate):,.0f} to {max(rate):,.0f}",
            f"{tokens / median(rate):.2f}",
            str(len(rate)),
        )
        for name, rate in rates.items()
    ]
    bars = (
        Bar("tokens/s, two logits over full logits", median(ratios(rates["ours"], rates["full"])), ">=", 1.5),
        Bar("largest difference of losses", largest_gap(*(measured[n]["losses"] for n in rates)), "<=", 1e-4),
    )
    notes = (
        f"{measured['parameters'] / 1e6:.1f} M parameters: 4 layers of width {asked['width']}, vocabulary "
        f"{asked['vocabulary']:,}; {asked['rows']} rows of {asked['tokens']} tokens; {asked['threads']} threads",
    )
    return Report("train", SUMMARY, HEADERS, rows, bars, {"asked": asked, **measured}, notes)
