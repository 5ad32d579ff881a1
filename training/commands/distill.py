"""``distill RECIPE``: RM-R1 stage 1: Chain-of-Rubrics traces of a stronger model."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("distill", help="RM-R1 stage 1: learns a stronger model's traces"))


def run(args: argparse.Namespace) -> None:
    from training.stages.writing import learn_to_write

    learn_to_write(stage_recipe.load(args, "distill"), resume=args.resume)
