"""``rlhf {sft,ppo,grpo}``: a small policy trained against a reward service, and what an independent checker says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.rlhf.runs import Place

_EXAMPLES = """examples:
  python -m training rlhf sft
  python -m training rlhf ppo
  python -m training rlhf grpo --mode cohort --url http://127.0.0.1:8000
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "rlhf",
        help="reinforcement learning against the service: PPO, GRPO",
        description="Train a small policy on the demo family through POST /score (docs/rlhf.md).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(dest="algorithm", required=True, metavar="ALGORITHM")
    sft = steps.add_parser("sft", help="first: write the policy that reinforcement learning begins with")
    sft.add_argument("--output", type=Path, default=Path("runs/rlhf/policy"), help="its directory (%(default)s)")
    sft.add_argument("--steps", type=int, default=160, help="of supervised training (%(default)s)")
    _shared(sft)
    _ppo_arguments(steps.add_parser("ppo", help="the reference PPO, of one file"))
    _grpo_arguments(steps.add_parser("grpo", help="TRL's GRPO, with the adapter of gram_client"))


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (%(default)s)")
    parser.add_argument("--test", type=int, default=256, help="questions to report on (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


def _run_arguments(parser: argparse.ArgumentParser, name: str, steps: int) -> None:
    _shared(parser)
    parser.add_argument(
        "--policy", type=Path, default=Path("runs/rlhf/policy"), help="what it begins with (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(f"runs/rlhf/{name}"), help="folder of figures and policy (%(default)s)"
    )
    parser.add_argument("--url", help="a running service (default: one of its own, with the demo judge)")
    parser.add_argument(
        "--engine", default="transformers", choices=("transformers", "vllm", "fake"), help="of a service of its own"
    )
    parser.add_argument("--steps", type=int, default=steps, help="of 64 responses (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="end after the step in which they have passed (default: never)"
    )
    parser.add_argument("--evaluate-every", type=int, default=20, metavar="N", help="steps (%(default)s)")
    parser.add_argument("--validation", type=int, default=96, help="questions to choose a step by (%(default)s)")


def _ppo_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser, "ppo", steps=200)
    parser.add_argument("--reference", choices=("own", "old"), default="own", help="whose greedy response is beaten")
    parser.add_argument("--window", type=int, default=1000, help="scores that standardize rewards; 0: none (1000)")
    parser.add_argument("--gamma", type=float, default=10.0, help="weight of the reward (%(default)s)")
    parser.add_argument("--value-only", type=int, default=30, metavar="N", help="first steps (%(default)s)")
    parser.add_argument("--rate", type=float, default=1e-4, help="policy's; the value model's is half (%(default)s)")
    parser.add_argument("--beta", type=float, default=0.05, help="weight of the KL (%(default)s)")


def _grpo_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser, "grpo", steps=60)
    parser.add_argument("--mode", choices=("group", "cohort"), default="group", help="how groups reach the service")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (%(default)s)")
    parser.add_argument("--beta", type=float, default=0.3, help="weight of the KL (%(default)s)")


def run(args: argparse.Namespace) -> None:
    from training.rlhf import runs

    if args.threads:
        runs.use_threads(args.threads)
    if args.algorithm == "sft":
        right = runs.sft(args.output, seed=args.seed, steps=args.steps, test=args.test)
        print(f"{args.output}: right {right['gold']:.3f} greedy, {right['gold_sampled']:.3f} sampled")
        return
    place = runs.Place(args.policy, args.output, args.url, args.engine, args.validation, args.test)
    report = _ppo(place, args) if args.algorithm == "ppo" else _grpo(place, args)
    print(runs.sentence(report))
    print(f"Written: {args.output}/policy, metrics.jsonl, report.json, curves.png")


def _ppo(place: Place, args: argparse.Namespace) -> dict[str, Any]:
    from training.rlhf import ppo, runs

    options = ppo.Options(
        own_reference=args.reference == "own",
        window=args.window or None,
        gamma=args.gamma,
        value_only=args.value_only,
        steps=args.steps,
        policy_rate=args.rate,
        value_rate=args.rate / 2,
        beta=args.beta,
        evaluate_every=args.evaluate_every,
        minutes=args.minutes,
        seed=args.seed,
    )
    return runs.train_ppo(place, options)


def _grpo(place: Place, args: argparse.Namespace) -> dict[str, Any]:
    from training.rlhf import grpo, runs

    options = grpo.Options(
        mode=args.mode,
        steps=args.steps,
        rate=args.rate,
        beta=args.beta,
        evaluate_every=args.evaluate_every,
        minutes=args.minutes,
        seed=args.seed,
    )
    return runs.train_grpo(place, options)
