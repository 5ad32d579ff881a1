"""``reward RECIPE``: the discriminative baseline: one number a response."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("reward", help="the discriminative baseline: one number a response"))


def run(args: argparse.Namespace) -> None:
    from training.stages.reward import train_reward

    train_reward(stage_recipe.load(args, "reward"), resume=args.resume)
