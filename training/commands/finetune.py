"""``finetune RECIPE``: GRAM's second stage."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("finetune", help="GRAM stage 2: learn which response is better"))


def run(args: argparse.Namespace) -> None:
    from training.stages.finetune import finetune

    finetune(stage_recipe.load(args, "finetune"), resume=args.resume)
