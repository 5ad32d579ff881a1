"""``study NAME``: a claim of the GRAM, GRAM-R2 or RM-R1 paper, tested on small models where the truth is known."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

STUDIES = {
    "smoothing": "label smoothing under wrong labels and misleading style, with the discriminative baselines",
    "stage1": "accuracy per label: random weights, stage 1, stage 1 on shuffled prompts",
    "adaptation": "labels that a new task needs: from scratch, from a generic judge, from GRAM",
    "selftrain": "rounds of self-training with a prover against labels alone, and what denoising adds",
    "proof_selection": "which of several proofs to learn: the first, the likeliest, the published score's",
    "rlvr": "GRPO after distillation against more distillation, a cold start and labels alone",
    "votes": "votes against the greedy rationale, and what stopping early saves",
    "budget": "accuracy against the number of tokens a rationale may have",
    "rubrics": "RM-R1's ablation: rubric, solution first, kind of task",
    "r2_adaptation": "pairs that a new task needs: a reasoning judge against label-only ones",
    "ppo_tricks": "PPO against the service: own reference, queue, gamma and value-only steps, each on and off",
    "faithfulness": "true facts and verdicts that follow, after self-training, GRPO, more distillation",
}
SIZES = ("micro", "smoke", "pilot", "full")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    lines = "\n".join(f"  {name:<17}{what}" for name, what in STUDIES.items())
    parser = commands.add_parser(
        "study",
        help="test a claim of the papers at small scale",
        description=f"Run a study, or what is missing of it, and write its page.\n\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=(*STUDIES, "all"), help="the study")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="smoke",
        help="micro: seconds, for tests; pilot: the corners of full, one seed; full: hours (%(default)s)",
    )
    parser.add_argument("--seeds", type=int, help="runs of everything (2; full: 5); more can be added later")
    parser.add_argument(
        "--workers", type=int, default=_cores(), help="processes, one thread each (%(default)s: the cores)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/studies"), help="folder of results (%(default)s)")
    parser.add_argument("--report", action="store_true", help="only write the page again, from the results there are")


def run(args: argparse.Namespace) -> None:
    from training.studies.run import run_study

    names = list(STUDIES) if args.name == "all" else [args.name]
    seconds = sum(
        run_study(name, args.size, seeds=args.seeds, workers=args.workers, output=args.output, only_report=args.report)
        for name in names
    )
    if args.name == "all" and not args.report:
        print(f"{len(names)} studies in {seconds / 60:.1f} minutes")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
