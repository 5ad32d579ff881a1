"""How much of a long measurement is run: all of it, or a share that shows that it works."""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace

SMALL = 0.01


def add_counts(parser: ArgumentParser) -> None:
    parser.add_argument("--share", type=float, default=1.0, help="of the promised counts (default 1)")
    parser.add_argument("--small", action="store_true", help=f"the same as --share {SMALL}: does it work?")
    parser.add_argument("--seed", type=int, help="what is drawn (default: something else each time; it is printed)")


def counted(arguments: Namespace, full: int, at_least: int = 1) -> int:
    """So many of `full`."""
    return max(at_least, round(full * (SMALL if arguments.small else arguments.share)))


def seed_of(arguments: Namespace) -> int:
    return random.getrandbits(32) if arguments.seed is None else int(arguments.seed)
