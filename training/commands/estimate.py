"""``estimate RECIPE``: memory, hours and price of a run, without starting it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "estimate",
        help="memory, hours and price of a recipe before it runs",
        description="Arithmetic only: no GPU, no download, no torch. docs/recipes.md says what is counted.",
    )
    parser.add_argument("recipe", help="a named recipe (PRESET/BACKBONE/STAGE) or a recipe file")
    parser.add_argument("--gpus", type=int, help="number of GPUs (default: what a named recipe is planned for, else 8)")
    parser.add_argument("--gpu", default="A800-80GB", help="kind of GPU (default: A800-80GB)")
    parser.add_argument(
        "--sharding", choices=("none", "zero1", "zero2", "zero3", "fsdp2"), default="fsdp2", help="default: fsdp2"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a named recipe's field")
    parser.add_argument("--utilisation", type=float, default=0.4, help="part of the peak reached (default: 0.4)")
    parser.add_argument("--price", type=float, default=1.5, help="US dollars a GPU-hour (default: 1.5, an assumption)")
    parser.add_argument("--pairs", type=int, help="pairs of an epoch (recipe files; named recipes know theirs)")
    parser.add_argument("--mean-tokens", type=float, help="tokens of a row on average (recipe files)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw memory under every kind of sharding")
    parser.add_argument("--backbone", help="backbone of a recipe file whose checkpoint is not here, such as qwen3-8b")


def run(args: argparse.Namespace) -> None:
    from training.architectures import architectures
    from training.data.pairs import DataError
    from training.planning import Machine, estimate_lines, machine_for, plan, shape_of
    from training.presets import Expected, resolve
    from training.recipe_files import load_recipe

    machine = Machine(args.gpu, args.gpus or 8, args.sharding, args.utilisation, args.price)
    if not Path(args.recipe).is_file():
        named = resolve(args.recipe, args.set)
        machine = machine if args.gpus else machine_for(named, machine)
        planned = plan(named.recipe(), named.architecture, named.expected, machine)
    else:
        if args.pairs is None or args.mean_tokens is None:
            raise DataError("A recipe file does not say how much data there is: give --pairs and --mean-tokens.")
        if args.backbone is not None and args.backbone not in architectures():
            raise DataError(f"There is no backbone {args.backbone}; known: {', '.join(architectures())}.")
        recipe = load_recipe(Path(args.recipe))
        shape = architectures()[args.backbone] if args.backbone else shape_of(recipe.model)
        planned = plan(recipe, shape, Expected(pairs=args.pairs, mean_tokens=args.mean_tokens), machine)
    print("\n".join(estimate_lines(planned, machine)))
    if args.picture is not None:
        from training.planning_picture import draw_memory

        draw_memory(planned, args.picture)
        print(f"Written: {args.picture}")
