"""Padding of training batches on real pairs: rows at random, and as the stages lay them out."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from random import Random

from benchmarks.figures import Bar, Report
from training.data.sources import pairs_of
from training.presets import resolve
from training.stages.datasets import pair_bytes
from training.stages.sampling import by_length, padded_share

SUMMARY = (
    "Share of all positions that is padding, at the batches of `gram-released`: rows in random order, and with the "
    "rows of one optimizer step laid out by length, which changes no gradient."
)
HEADERS = ("stage", "rows a step", "rows at once", "padding, random", "padding, by length", "positions, times fewer")
BYTES_A_TOKEN = 4.3
"""Of English preference data under a vocabulary of 128,000 to 152,000 tokens: an assumption that both columns share."""
TEMPLATE_TOKENS = {"pretrain": 60, "finetune": 260}
"""Of the family's prompt around the texts, by stage."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pairs",
        help="a file or folder of pairs, in any format that `training data` reads (default: $GRAM_DATA_DIR/tldr)",
    )


def run(arguments: Namespace) -> Report:
    folder = os.environ.get("GRAM_DATA_DIR")
    if arguments.pairs is None and not folder:
        sys.exit("error: name the pairs with --pairs, or set GRAM_DATA_DIR.")
    sizes = [pair_bytes(pair) for pair in pairs_of(arguments.pairs or f"{folder}/tldr")]
    rows, bars = [], []
    for stage, most in (("pretrain", 0.02), ("finetune", 0.06)):
        recipe = resolve(f"gram-released/qwen3-8b/{stage}").recipe()
        lengths = [min(size / BYTES_A_TOKEN + TEMPLATE_TOKENS[stage], recipe.data.max_tokens) for size in sizes]
        drawn, laid_out = _orders(lengths, recipe.batch.rows)
        before, after = (padded_share(lengths, order, recipe.batch.rows_per_device) for order in (drawn, laid_out))
        batch = recipe.batch
        gain = (1 - after) / (1 - before)
        rows.append(
            (stage, str(batch.rows), str(batch.rows_per_device), f"{before:.1%}", f"{after:.1%}", f"{gain:.2f}")
        )
        bars.append(Bar(f"padding, {stage}", after, "<=", most))
    notes = (f"{len(sizes):,} pairs; {BYTES_A_TOKEN} bytes a token, {recipe.data.max_tokens} tokens at most",)
    return Report("padding", SUMMARY, HEADERS, rows, tuple(bars), {"pairs": len(sizes)}, notes)


def _orders(lengths: list[float], step: int) -> tuple[list[int], list[int]]:
    drawn = list(range(len(lengths)))
    Random(1).shuffle(drawn)
    steps = (drawn[start : start + step] for start in range(0, len(drawn), step))
    return drawn, [row for rows in steps for row in by_length(rows, lengths)]
