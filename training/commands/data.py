"""``data build``, ``data show``, ``data formats``: sources to files of pairs, and a look at what a judge is shown."""

from __future__ import annotations

import argparse
from pathlib import Path

_BUILD = """\
Read preference data, clean, decontaminate, de-duplicate and split it, and write train.jsonl (validation.jsonl,
test.jsonl) with a data card: what was read, what was dropped and why, what came out.

  python -m training data build training/recipes/data/public-labels.toml
  python -m training data build --input pairs.jsonl --input hub:owner/name --output runs/data/mine \\
      --decontaminate rewardbench/ --validation 0.05
"""
_SHOW = """\
Print pairs as token rows of a judge, control tokens visible: what the model reads, and from where it learns.

  python -m training data show runs/data/mine/train.jsonl --stage 1 --count 2
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("data", help="build data sets, look at them, list the formats that are read")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    _add_show(actions)
    listed = actions.add_parser("formats", help="list the row formats, each with an example row")
    listed.add_argument("--name", help="only this one")


def _add_build(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = actions.add_parser(
        "build",
        help="sources to train, validation and test files with a data card",
        description=_BUILD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("recipe", type=Path, nargs="?", help="TOML file (or name the inputs with --input)")
    build.add_argument("--input", action="append", metavar="PATH", help="file, folder or hub:owner/name; repeatable")
    build.add_argument("--format", metavar="NAME", help="format of the inputs (default: recognised by their columns)")
    build.add_argument("--output", type=Path, help="folder to write (default: the recipe's)")
    build.add_argument("--decontaminate", action="append", metavar="PATH", help="benchmark file or folder; repeatable")
    build.add_argument("--validation", type=float, metavar="SHARE", help="share of prompts held out (default 0.02)")
    build.add_argument("--test", type=float, metavar="SHARE", help="share of prompts for a test file (default 0)")
    build.add_argument("--unlabelled", action="store_true", help="keep pairs without a label, too (for stage 1)")
    build.add_argument("--seed", type=int, help="of sides and splits (default 0)")
    build.add_argument("--force", action="store_true", help="replace an output that exists")


def _add_show(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = actions.add_parser(
        "show",
        help="print pairs as a judge is shown them",
        description=_SHOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    show.add_argument("file", help="file, folder or hub:owner/name, in any format")
    show.add_argument("--format", metavar="NAME", help="default: recognised by the columns")
    show.add_argument("--stage", type=int, choices=(1, 2), default=2, help="1: responses to write, 2: label to read")
    show.add_argument("--count", type=int, default=3, help="how many pairs (default 3)")
    show.add_argument("--skip", type=int, default=0, help="pairs to pass over first")
    show.add_argument("--max-tokens", type=int, default=2048, help="length limit (default 2048, as published)")
    show.add_argument("--tokenizer", metavar="PATH", help="checkpoint folder or hub id (default: the demo judge)")
    show.add_argument("--swapped", action="store_true", help="show response B first")


def run(args: argparse.Namespace) -> None:
    actions = {"build": _build, "show": _show, "formats": _formats}
    actions[args.action](args)


def _build(args: argparse.Namespace) -> None:
    from training.data.building import build
    from training.data.files import stem_of
    from training.data.pairs import DataError
    from training.data.recipe import DataRecipe

    if (args.recipe is None) == (args.input is None):
        raise DataError("Name either a recipe or --input (at least one).")
    changes = {
        "output": str(args.output) if args.output else None,
        "decontaminate": args.decontaminate,
        "validation": args.validation,
        "test": args.test,
        "labels": "optional" if args.unlabelled else None,
        "seed": args.seed,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    if args.recipe is None:
        several = len(args.input) > 1  # then each is called what its file is called, so that ids do not clash
        given["inputs"] = [
            {"path": path, "format": args.format, "name": stem_of(Path(path)) if several else None}
            for path in args.input
        ]
        if "output" not in given:
            raise DataError("Without a recipe, --output must name the folder to write.")
    recipe = DataRecipe.load(args.recipe, given) if args.recipe else DataRecipe.of(given, "the arguments")
    output = Path(recipe.output)
    card = build(recipe, output, force=args.force)
    totals = card.totals
    print(f"{totals['read']:,} pairs read, {totals['dropped']:,} dropped, {totals['kept']:,} kept.")
    for name, side in card.sides.items():
        print(f"  {output / f'{name}.jsonl'}: {side.pairs:,} pairs of {len(side.prompts):,} prompts")
    print(f"Card: {output / 'card.md'}")


def _show(args: argparse.Namespace) -> None:
    import sys
    from itertools import islice

    from training.data.showing import show
    from training.data.sources import pairs_of

    pairs = islice(pairs_of(args.file, args.format), args.skip, args.skip + args.count)
    options = {"stage": args.stage, "max_tokens": args.max_tokens, "swapped": args.swapped}
    for text in show(pairs, args.tokenizer, colour=sys.stdout.isatty(), **options):
        print(text)


def _formats(args: argparse.Namespace) -> None:
    import json

    from training.data.formats.registry import FORMATS, get_format

    for known in [get_format(args.name)] if args.name else FORMATS.values():
        print(f"{known.name}: {known.about}")
        print(json.dumps(dict(known.example), indent=2, ensure_ascii=False) + "\n")
