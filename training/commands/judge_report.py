"""``judge-report PAIRS``: what a judge does to labelled pairs, on one page with pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_EXAMPLES = """examples:
  python -m training judge-report held_out.jsonl --url http://127.0.0.1:8000
  python -m training judge-report held_out.jsonl --checkpoint checkpoints/my-judge --price 1.8 --output report
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "judge-report",
        help="one page about a judge: accuracy, flips, calibration, biases, speed, cost",
        description="Writes report.html (self-contained), report.md, report.json, plots/. An interrupted run goes on.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pairs", type=Path, metavar="PAIRS.jsonl", help="labelled pairs (docs/data.md)")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--url", help="a running service, such as http://127.0.0.1:8000")
    who.add_argument("--checkpoint", dest="model", metavar="DIR", help="a checkpoint, judged with in this process")
    who.add_argument("--baseline", choices=("length", "random", "first"), help="a judge that reads nothing")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/judge-report/NAME-OF-PAIRS")
    judge = parser.add_argument_group("the judge")
    judge.add_argument("--judge", help="its name (default: the service's or the checkpoint's first)")
    judge.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="runs --checkpoint")
    judge.add_argument("--family", help="what --checkpoint is, where it has no judge.json")
    judge.add_argument("--votes", type=int, default=1, help="written judgments of each order (default: 1, greedy)")
    judge.add_argument("--key-file", type=Path, help="file with the service's API key")
    judge.add_argument("--deadline", type=float, default=300.0, help="seconds the service may take for a request")
    judge.add_argument("--batch", type=int, default=64, help="pairs in a request (default: 64)")
    judge.add_argument("--concurrency", type=int, default=4, help="requests at a time (default: 4)")
    page = parser.add_argument_group("the report")
    page.add_argument("--price", type=float, default=1.5, help="US dollars a GPU-hour (default: 1.5, an assumption)")
    page.add_argument("--gpus", type=int, default=1, help="GPUs behind the judge (default: 1)")
    page.add_argument("--worst", type=int, default=12, help="wrong examples shown (default: 12)")
    page.add_argument("--limit", type=int, help="about so many pairs, spread over the subsets: for trying out")
    page.add_argument("--seed", type=int, default=0, help="of --limit and of the random baseline")


def run(args: argparse.Namespace) -> None:
    import asyncio

    from training.evaluation.judges.base import EvaluationError
    from training.evaluation.report.run import judge_report

    try:
        page = asyncio.run(judge_report(args))
    except* EvaluationError as group:
        sys.exit(f"error: {first(group)}")
    print(f"Written: {page}, with report.md, report.json and plots/ beside it.")


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error inside; the others say the same of another batch."""
    inner = group.exceptions[0]
    return first(inner) if isinstance(inner, BaseExceptionGroup) else inner
