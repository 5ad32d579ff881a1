"""``prove RECIPE``: GRAM-R2's prover: pair and label in, proof out."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("prove", help="GRAM-R2's prover: writes why a given label is right"))


def run(args: argparse.Namespace) -> None:
    from training.stages.writing import learn_to_write

    learn_to_write(stage_recipe.load(args, "prove"), resume=args.resume)
