"""``finetune RECIPE``: GRAM's second stage."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("finetune", help="GRAM stage 2: train the demo judge")
    parser.add_argument("recipe", type=Path, help="recipe file, such as training/recipes/demo.toml")
    parser.add_argument("--output", type=Path, help="checkpoint directory (default: the recipe's)")
    parser.add_argument("--resume", action="store_true", help="go on from the last state under runs/")


def run(args: argparse.Namespace) -> None:
    from training.demo_configs import Recipe
    from training.stages.demo import finetune

    recipe = Recipe.load(args.recipe)
    finetune(recipe, args.output or Path(recipe.output), resume=args.resume)
