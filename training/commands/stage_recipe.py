"""What the four stages' commands have in common: a recipe, and where its checkpoint goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.data.pairs import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="recipe file, or a name of `recipe list`")
    parser.add_argument("--output", type=Path, help="checkpoint directory (default: the recipe's)")
    parser.add_argument("--resume", action="store_true", help="go on from the last state the interrupted run saved")


def load(args: argparse.Namespace, stage: str) -> Any:
    """The recipe named on the command line. Raises `DataError`, also for a recipe of another stage."""
    from training.presets import names, resolve
    from training.recipe_files import load_recipe

    name = args.recipe.as_posix()
    recipe = resolve(name).recipe() if name in names() else load_recipe(args.recipe)
    if recipe.stage != stage:
        raise DataError(f"{args.recipe} is a recipe for {recipe.stage}; run: python -m training {recipe.stage}")
    if args.output is None:
        return recipe
    return recipe.model_copy(update={"output": recipe.output.model_copy(update={"directory": str(args.output)})})
