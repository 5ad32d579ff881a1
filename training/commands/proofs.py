"""``proofs JUDGMENTS --output FILE``: written judgments as what the prover learns from."""

from __future__ import annotations

import argparse
from pathlib import Path

_ABOUT = """\
Turn written judgments (think and answer form) into rows for `prove`: pair and label in, the rationale as a proof out.
The proof is the judgment by an exact template; a judgment that makes none is refused by name, or left out with --skip.

  python -m training proofs rationales.jsonl --output runs/data/proofs.jsonl
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "proofs",
        help="written judgments to rows that `prove` learns from",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("judgments", type=Path, nargs="+", help="files of written judgments of family gram_r2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file of rows to write")
    parser.add_argument("--skip", action="store_true", help="leave out judgments that make no proof, and count them")


def run(args: argparse.Namespace) -> None:
    from itertools import chain

    from training.data.judgments import read_judgments
    from training.data.writing import write_texts
    from training.selftrain.preparing import prover_rows

    skipped: dict[str, int] = {}
    judgments = chain.from_iterable(map(read_judgments, args.judgments))
    rows = write_texts(args.output, prover_rows(judgments, skipped if args.skip else None))
    left_out = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items())
    print(f"{rows:,} rows in {args.output}" + (f"; left out: {left_out}" if left_out else ""))
