"""``finetune RECIPE``: GRAM's second stage."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from training.commands import stage_recipe


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage_recipe.add_arguments(commands.add_parser("finetune", help="GRAM stage 2: learn which response is better"))


def run(args: argparse.Namespace) -> None:
    if _is_demo(args.recipe):
        _demo(args)
        return
    from training.stages.finetune import finetune

    finetune(stage_recipe.load(args, "finetune"), resume=args.resume)


def _is_demo(path: Path) -> bool:
    return path.is_file() and "stage" not in tomllib.loads(path.read_text(encoding="utf-8"))


def _demo(args: argparse.Namespace) -> None:
    from training.demo_configs import Recipe
    from training.stages.demo import finetune

    recipe = Recipe.load(args.recipe)
    finetune(recipe, args.output or Path(recipe.output), resume=args.resume)
