"""``adapt RECIPE``: train a GRAM checkpoint on few pairs of a new domain."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("adapt", help="a GRAM checkpoint on few pairs of a new domain"))


def run(args: argparse.Namespace) -> None:
    from training.stages.finetune import finetune

    finetune(stage_recipe.load(args, "adapt"), resume=args.resume)
