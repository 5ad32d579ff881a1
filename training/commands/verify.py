"""``verify --model CHECKPOINT``: a released judge through the service, beside what was published of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_EXAMPLES = """examples:
  python -m training verify --model NiuTrans/GRAM-Qwen3-1.7B-RewardModel --device cuda
  python -m training verify --model /models/my-copy --name GRAM-Qwen3-8B --device cuda
  python -m training verify --url http://127.0.0.1:8000 --name RM-R1-Qwen2.5-Instruct-7B
  python -m training verify --limit 20            # the whole path on a CPU, with the demo judge
"""
BENCHMARKS = ("rm_bench", "judgebench")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify",
        help="measure a released judge and set it beside its published scores",
        description="Starts the service on a checkpoint, runs its self-test and benchmarks, and says for each "
        "published score whether it agrees. Interrupted, the same command goes on where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    who = parser.add_argument_group("the judge")
    who.add_argument("--model", help="checkpoint directory or hub id (default: the demo judge)")
    who.add_argument("--url", help="a service that runs already, instead")
    who.add_argument("--judge", help="its judge's name (default: its first)")
    who.add_argument("--key-file", type=Path, help="file with its API key")
    who.add_argument("--name", help="whose published figures to compare with (default: the checkpoint's name)")
    who.add_argument("--family", help="what the checkpoint is, where neither judge.json nor the figures say")
    who.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    who.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    who.add_argument("--votes", type=int, default=1, help="written judgments of each order (default: 1, greedy)")
    who.add_argument("--start-s", type=float, default=1800.0, help="seconds the service may take to start")
    who.add_argument("--skip-self-test", action="store_true", help="measure a judge that fails plain questions, too")
    data = parser.add_argument_group("the data")
    data.add_argument("--benchmarks", nargs="+", default=list(BENCHMARKS), metavar="NAME", help="of `evaluate`")
    data.add_argument("--limit", type=int, help="about so many pairs of each (default: all; on a CPU 200)")
    data.add_argument("--hub", action="store_true", help="read them from the Hugging Face hub, not from $GRAM_DATA_DIR")
    data.add_argument("--allow-changed", action="store_true", help="accept files that are not the published ones")
    data.add_argument("--published", type=Path, help="another file of published figures")
    out = parser.add_argument_group("the run")
    out.add_argument("--output", type=Path, help="folder for everything (default: runs/evaluation/JUDGE)")
    out.add_argument("--concurrency", type=int, default=8, help="requests at a time (default: 8)")
    out.add_argument("--batch", type=int, default=32, help="pairs in a request (default: 32)")
    out.add_argument("--deadline", type=float, default=540.0, help="seconds the service may take for a request")
    parser.set_defaults(baseline=None, data=None, seed=0)


def run(args: argparse.Namespace) -> None:
    import asyncio

    from training.evaluation.judges.base import EvaluationError
    from training.evaluation.verify.run import verify

    try:
        asyncio.run(verify(checked(args)))
    except (EvaluationError, ExceptionGroup) as error:
        first: Exception = error
        while isinstance(first, ExceptionGroup):  # the first of several workers that met the same
            first = first.exceptions[0]
        if not isinstance(first, EvaluationError):
            raise first from None
        sys.exit(f"error: {first}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what was judged is kept: start again to go on")


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments as `verify` takes them. Raises `EvaluationError`."""
    from training.evaluation.benchmarks import BENCHMARKS as ALL
    from training.evaluation.judges.base import EvaluationError

    if args.model and args.url:
        raise EvaluationError("Name a checkpoint with --model or a running service with --url, not both.")
    if unknown := [name for name in args.benchmarks if name not in ALL]:
        raise EvaluationError(f"There is no benchmark {unknown[0]}; there are {', '.join(ALL)}.")
    args.what = args.benchmarks
    return args
