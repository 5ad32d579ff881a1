"""``pipeline METHOD``: a whole method in one command, at a size for two cores."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

METHODS = {
    "gram-r2": "prover, two rounds of self-training, judge",
    "rm-r1": "a teacher's traces, distillation, GRPO, judge",
}
"""By name; the module of `training.pipelines` is called alike and has ``SIZES`` and ``run(size, directory, seed)``."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pipeline",
        help="a whole method in one command, on the demo tasks",
        description="Started again on the same directory, it goes on where it was interrupted. "
        + " ".join(f"{name}: {text}." for name, text in METHODS.items()),
    )
    parser.add_argument("method", choices=METHODS, help="which method")
    parser.add_argument("--size", default="smoke", help="smoke (minutes on two cores, the default) or tiny")
    parser.add_argument("--directory", type=Path, help="where everything goes (default: runs/METHOD-SIZE)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")


def run(args: argparse.Namespace) -> None:
    from training.data.pairs import DataError

    module = import_module(f"training.pipelines.{args.method.replace('-', '_')}")
    if args.size not in module.SIZES:
        raise DataError(f"--size {args.size}: {args.method} has {', '.join(module.SIZES)}.")
    module.run(args.size, args.directory or Path("runs") / f"{args.method}-{args.size}", args.seed)
