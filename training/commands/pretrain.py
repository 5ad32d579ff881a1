"""``pretrain RECIPE``: GRAM's first stage."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(
        commands.add_parser("pretrain", help="GRAM stage 1: write both responses, without labels")
    )


def run(args: argparse.Namespace) -> None:
    from training.stages.pretrain import pretrain

    pretrain(stage_recipe.load(args, "pretrain"), resume=args.resume)
