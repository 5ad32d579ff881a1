"""``python -m training finetune RECIPE [--output DIR]``: run a training stage from its recipe."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from training.configs import Recipe
from training.stages.finetune import finetune


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a judge from a recipe.")
    stages = parser.add_subparsers(dest="stage", required=True)
    stage = stages.add_parser("finetune", help="GRAM stage 2: train the demo judge")
    stage.add_argument("recipe", type=Path, help="recipe file, such as training/recipes/demo.toml")
    stage.add_argument("--output", type=Path, help="checkpoint directory (default: the recipe's)")
    stage.add_argument("--resume", action="store_true", help="go on from the last state under runs/")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe.load(args.recipe)
    finetune(recipe, args.output or Path(recipe.output), resume=args.resume)


if __name__ == "__main__":
    main()
