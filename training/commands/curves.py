"""``curves HISTORY... PICTURE``: draw a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("curves", help="draw a run's history")
    parser.add_argument(
        "histories", type=Path, nargs="+", metavar="history", help="runs/VERSION/history.jsonl of each stage, in order"
    )
    parser.add_argument("picture", type=Path, help="PNG file to write")


def run(args: argparse.Namespace) -> None:
    from training.evaluation.curves import draw_curves

    draw_curves(args.histories, args.picture)
