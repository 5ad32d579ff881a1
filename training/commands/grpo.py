"""``grpo RECIPE``: RM-R1 stage 2: a reward for every right verdict."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("grpo", help="RM-R1 stage 2: rewards judgments by their verdict"))


def run(args: argparse.Namespace) -> None:
    from training.stages.grpo import grpo

    grpo(stage_recipe.load(args, "grpo"), resume=args.resume)
