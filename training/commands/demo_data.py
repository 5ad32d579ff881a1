"""``demo-data DIRECTORY``: the demo judge's training files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo-data", help="write the demo judge's training files")
    parser.add_argument("directory", type=Path, help="where to write them, such as data/demo")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--share", type=float, default=1.0, help="part of the full size, for a trial (default: 1)")
    parser.add_argument("--held-out", type=int, help="pairs of dev.jsonl (default: 225, whatever the share)")


def run(args: argparse.Namespace) -> None:
    from training.data.demo_files import DemoSizes, write_demo

    full = DemoSizes()
    pairs, judgments = (max(10, int(n * args.share)) for n in (full.pairs, full.judgments))
    write_demo(args.directory, DemoSizes(pairs, judgments, args.held_out or full.held_out), args.seed)
