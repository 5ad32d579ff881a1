"""``reason RECIPE``: a judge that writes a rationale, then the label (GRAM-R2's own fine-tuning)."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("reason", help="a judge that writes: rationale, then label"))


def run(args: argparse.Namespace) -> None:
    from training.stages.writing import learn_to_write

    learn_to_write(stage_recipe.load(args, "reason"), resume=args.resume)
