"""``best-of-n``: what choosing the best of n samples by a judge gains, by its own measure and by an oracle's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PLANS = ("linear", "knockout", "swiss", "adaptive", "pivot", "all_pairs")
_EXAMPLES = """examples:
  python -m training best-of-n --demo 40
  python -m training best-of-n --prompts prompts.jsonl --policy Qwen/Qwen3-1.7B --url http://127.0.0.1:8000 \\
      --oracle-url http://127.0.0.1:9000
  python -m training best-of-n --prompts prompts.jsonl --policy-url http://127.0.0.1:8100 \\
      --checkpoint checkpoints/judge --oracle-checkpoint checkpoints/second-judge --plans linear knockout
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "best-of-n",
        help="over-optimisation: proxy and oracle as n grows",
        description="Samples from a policy, chooses by a judge, and asks an oracle. An interrupted study goes on.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="rows with prompt, and answer where known")
    what.add_argument("--demo", type=int, metavar="N", help="N questions of the demo family, its policy and checker")
    parser.add_argument("--output", type=Path, default=Path("runs/best-of-n"), help="default: runs/best-of-n")
    _policy_arguments(parser.add_argument_group("the policy"))
    _judge_arguments(parser.add_argument_group("the judges"))


def _policy_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--policy", help="checkpoint directory or hub id, run in this process")
    group.add_argument(
        "--policy-url", help="a server with /v1/chat/completions instead, such as vLLM's: http://127.0.0.1:8100"
    )
    group.add_argument("--policy-model", help="the server's model (default: its only one)")
    group.add_argument("--policy-key-file", type=Path, help="file with the server's API key")
    group.add_argument("--n", type=int, default=64, choices=range(1, 65), metavar="N", help="samples (default: 64)")
    group.add_argument("--top-p", type=float, default=0.95, help="default: 0.95")
    group.add_argument("--temperature", type=float, default=0.75, help="default: 0.75")
    group.add_argument("--max-tokens", type=int, default=512, help="of a response (default: 512)")
    group.add_argument("--seeds", type=int, default=1, help="independent draws of n samples (default: 1)")
    group.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    group.add_argument("--threads", type=int, help="CPU threads of the policy (default: torch's)")


def _judge_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--url", help="the service whose judge is the proxy")
    group.add_argument("--checkpoint", dest="model", metavar="DIR", help="a checkpoint as proxy, in this process")
    group.add_argument("--judge", help="the proxy's name (default: the first)")
    group.add_argument("--oracle-url", help="the service of a second judge (default: check the prompts' answers)")
    group.add_argument("--oracle-checkpoint", dest="oracle_model", metavar="DIR", help="a checkpoint as second judge")
    group.add_argument("--oracle-judge", help="the second judge's name (default: the first)")
    group.add_argument(
        "--plans", nargs="*", choices=PLANS, default=["linear", "knockout"], help="default: linear knockout"
    )
    group.add_argument("--draws", type=int, default=2, help="random orders a plan is run on (default: 2)")
    group.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="runs checkpoints")
    group.add_argument("--family", help="what a checkpoint is, where it has no judge.json")
    group.add_argument("--votes", type=int, default=1, help="written judgments of each order (default: 1)")
    group.add_argument("--key-file", type=Path, help="file with the services' API key")
    group.add_argument("--deadline", type=float, default=300.0, help="seconds a service may take for a request")
    group.add_argument("--concurrency", type=int, default=4, help="requests at a time (default: 4)")


def run(args: argparse.Namespace) -> None:
    import asyncio

    from training.commands.judge_report import first
    from training.evaluation.best_of_n.run import best_of_n
    from training.evaluation.judges.base import EvaluationError

    if not args.demo and not ((args.policy or args.policy_url) and (args.url or args.model)):
        sys.exit("error: name the policy (--policy or --policy-url) and the judge (--url or --checkpoint).")
    try:
        asyncio.run(best_of_n(args))
    except* EvaluationError as group:
        sys.exit(f"error: {first(group)}")
    print((args.output / "best_of_n.md").read_text(encoding="utf-8"))
    print(f"Written: {args.output}/best_of_n.png, .md, .json")
