"""Commands: ``finetune RECIPE [--output DIR] [--resume]`` runs a stage, ``curves HISTORY PICTURE`` draws a run."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from training.configs import Recipe
from training.evaluation.curves import draw_curves
from training.stages.finetune import finetune


def main() -> None:
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.command == "curves":
        draw_curves(args.history, args.picture)
        return
    recipe = Recipe.load(args.recipe)
    finetune(recipe, args.output or Path(recipe.output), resume=args.resume)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a judge from a recipe.")
    commands = parser.add_subparsers(dest="command", required=True)
    stage = commands.add_parser("finetune", help="GRAM stage 2: train the demo judge")
    stage.add_argument("recipe", type=Path, help="recipe file, such as training/recipes/demo.toml")
    stage.add_argument("--output", type=Path, help="checkpoint directory (default: the recipe's)")
    stage.add_argument("--resume", action="store_true", help="go on from the last state under runs/")
    curves = commands.add_parser("curves", help="draw a run's history")
    curves.add_argument("history", type=Path, help="runs/VERSION/history.jsonl")
    curves.add_argument("picture", type=Path, help="PNG file to write")
    return parser


if __name__ == "__main__":
    main()
