"""``adapt RECIPE``: train a GRAM checkpoint on few pairs of a new domain."""

from __future__ import annotations

import argparse

from training.commands import stage_recipe

_SIZES = (0, 1_000, 3_000, 5_000, 7_000, 10_000)
"""Those of GRAM's paper (arXiv 2506.14175)."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("adapt", help="a GRAM checkpoint on few pairs of a new domain")
    stage_recipe.add_arguments(parser)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="*",
        metavar="N",
        help=f"train on N pairs each, and draw accuracy against N (without numbers: {' '.join(map(str, _SIZES))})",
    )


def run(args: argparse.Namespace) -> None:
    recipe = stage_recipe.load(args, "adapt")
    if args.sizes is None:
        from training.stages.finetune import finetune

        finetune(recipe, resume=args.resume)
        return
    from training.evaluation.adaptation import table
    from training.stages.adaptation import adapt_to_sizes

    points = adapt_to_sizes(recipe, args.sizes or _SIZES, resume=args.resume)
    if points:
        print(table(points))
        print(f"Written: {recipe.run_directory}/curve.png, .md, .json")
