"""``selftrain RECIPE``: GRAM-R2 from people's rationales and unlabelled pairs."""

from __future__ import annotations

import argparse
from pathlib import Path

_ABOUT = """\
Train a prover on people's rationales, write rationales for labelled pairs, train a judge on them; then, round by round,
let the judge label unlabelled pairs, keep what it is sure of, prove it, and train the judge on everything so far. Ends
with people's rationales. All of it lies in the recipe's directory: manifest.json says what is done, card.md what came
out.

  python -m training selftrain training/recipes/gram-r2/8b.toml
  python -m training selftrain training/recipes/gram-r2/8b.toml --resume
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "selftrain",
        help="GRAM-R2: rounds of labelling, proving and training, from one recipe",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="recipe file (training/recipes/gram-r2/)")
    parser.add_argument("--directory", type=Path, help="where the run lies (default: the recipe's)")
    parser.add_argument("--estimate", action="store_true", help="only print memory and hours of every step")
    parser.add_argument("--resume", action="store_true", help="go on with the run that lies there")


def run(args: argparse.Namespace) -> None:
    from training.planning import Machine
    from training.selftrain.card import summary
    from training.selftrain.directory import read_manifest
    from training.selftrain.driver import selftrain
    from training.selftrain.planning import lines
    from training.selftrain.recipe import load_selftrain

    recipe = load_selftrain(args.recipe)
    if args.directory is not None:
        recipe = recipe.model_copy(update={"directory": str(args.directory)})
    if args.estimate:
        print("\n".join(lines(recipe, Machine())))
        return
    checkpoint = selftrain(recipe, resume=args.resume)
    steps = read_manifest(recipe.run)["steps"]
    print("\n".join(summary(recipe, {name: step["figures"] for name, step in steps.items()})))
    print(f"Judge: {checkpoint}\nCard:  {recipe.run / 'card.md'}")
