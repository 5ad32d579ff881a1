"""``evaluate BENCHMARK...``: a judge's scores; ``evaluate compare A B``: which of two is better."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAMES = ("rewardbench", "rm_bench", "judgebench", "judgebench_claude", "rmb", "hhh", "unified_feedback", "pairs")
_EXAMPLES = """examples:
  python -m training evaluate rewardbench judgebench --url http://127.0.0.1:8000
  python -m training evaluate rmb --model runs/my-judge --engine vllm --output runs/rmb
  python -m training evaluate pairs --data my_pairs.jsonl --baseline length
  python -m training evaluate compare runs/one/rewardbench.json runs/two/rewardbench.json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a judge on benchmarks, or compare two results",
        description=f"Benchmarks: {', '.join(NAMES)}. Interrupted runs go on where they stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="+", metavar="BENCHMARK", help="names above; or: compare A.json B.json")
    _judge_arguments(parser.add_argument_group("the judge (one of --url, --model, --baseline)"))
    data = parser.add_argument_group("the data")
    data.add_argument(
        "--data", type=Path, help="the benchmark's folder or file (default: its folder in $GRAM_DATA_DIR)"
    )
    data.add_argument("--hub", action="store_true", help="read from the Hugging Face hub by the benchmark's own name")
    data.add_argument(
        "--allow-changed", action="store_true", help="accept files whose checksum is not the published one"
    )
    data.add_argument("--limit", type=int, help="about so many pairs, spread over the subsets: for trying out")
    data.add_argument("--seed", type=int, default=0, help="of the positions, of --limit and of the random baseline")
    out = parser.add_argument_group("the run")
    out.add_argument(
        "--output", type=Path, help="folder for answers, results, tables, plots (default: runs/evaluation/JUDGE)"
    )
    out.add_argument("--batch", type=int, default=64, help="pairs in a request (default: 64)")
    out.add_argument("--concurrency", type=int, default=4, help="requests at a time (default: 4)")


def _judge_arguments(group: argparse._ArgumentGroup) -> None:
    who = group.add_mutually_exclusive_group()
    who.add_argument("--url", help="a running service, such as http://127.0.0.1:8000")
    who.add_argument("--model", help="a checkpoint, judged with in this process")
    who.add_argument("--baseline", choices=("length", "random", "first"), help="a judge that reads nothing")
    group.add_argument("--judge", help="the judge's name (default: the service's or the checkpoint's first)")
    group.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="runs --model")
    group.add_argument("--family", help="what --model is, where it has no judge.json (gram, gram_r2, rm_r1, scalar)")
    group.add_argument("--votes", type=int, default=1, help="written judgments of each order (default: 1, greedy)")
    group.add_argument("--key-file", type=Path, help="file with the service's API key")
    group.add_argument("--deadline", type=float, default=300.0, help="seconds the service may take for a request")


def parse(words: list[str]) -> argparse.Namespace:
    """The arguments of ``evaluate``, for programs that call `training.evaluation.run.evaluate_all` themselves."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["evaluate", *words])


def run(args: argparse.Namespace) -> None:
    from training.evaluation.judges.base import EvaluationError

    try:
        if args.what[0] == "compare":
            _compare(args.what[1:])
        else:
            _evaluate(args)
    except EvaluationError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what was judged is kept: start again to go on")


def _evaluate(args: argparse.Namespace) -> None:
    import asyncio

    from training.evaluation.benchmarks import BENCHMARKS
    from training.evaluation.judges.base import EvaluationError
    from training.evaluation.run import evaluate_all

    if unknown := [name for name in args.what if name not in BENCHMARKS]:
        raise EvaluationError(f"There is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}.")
    if not (args.url or args.model or args.baseline):
        raise EvaluationError("Name the judge: --url of a service, --model of a checkpoint, or --baseline.")
    if args.data and len(args.what) > 1:
        raise EvaluationError("--data names one benchmark's data; evaluate one at a time with it.")
    try:
        asyncio.run(evaluate_all(args))
    except* EvaluationError as group:
        raise group.exceptions[0] from None


def _compare(paths: list[str]) -> None:
    from training.evaluation.comparison import compare
    from training.evaluation.judges.base import EvaluationError

    if len(paths) != 2:
        raise EvaluationError("compare takes two results: evaluate compare A.json B.json.")
    print(compare(Path(paths[0]), Path(paths[1])))
