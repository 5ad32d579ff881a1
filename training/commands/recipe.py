"""``recipe list``, ``recipe show NAME``: the named recipes, and one of them written out."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("recipe", help="list the named recipes, or write one out")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="every named recipe with memory, hours and price on 8 x A800-80GB")
    show = verbs.add_parser("show", help="one recipe, resolved: what `pretrain` and `finetune` are given")
    show.add_argument("name", metavar="NAME", help="PRESET/BACKBONE/STAGE, such as gram-released/qwen3-8b/finetune")
    show.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field or give what the source leaves open, such as batch.rows=256 (may come several times)",
    )
    show.add_argument("--output", type=Path, metavar="FILE", help="write a recipe file (default: print it)")


def run(args: argparse.Namespace) -> None:
    from training.planning import Machine, listing, recipe_text
    from training.presets import names, resolve

    machine = Machine()
    if args.verb == "list":
        head = ("recipe", "size", "a GPU", "hours", "price", "")
        for row in (head, *listing({name: resolve(name) for name in names()}, machine)):
            print("{:<38}{:>9}{:>10}{:>8}{:>8}  {}".format(*row).rstrip())
        return
    named = resolve(args.name, args.set)
    if args.output is None:
        print(recipe_text(named, machine, "RECIPE.toml"), end="")
        return
    named.recipe()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(recipe_text(named, machine, str(args.output)), encoding="utf-8")
    print(f"{args.output} written; its header says how to launch it.")
