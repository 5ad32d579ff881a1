"""A judge report from beginning to end: pairs, judge, answers, findings, page."""

from __future__ import annotations

import argparse
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from training.data.pairs import read_pairs
from training.evaluation.answers import judge_all
from training.evaluation.items import Item, Judged, check_names, limited
from training.evaluation.judges.base import EvaluationError
from training.evaluation.report.findings import find
from training.evaluation.report.page import write_report
from training.evaluation.report.story import Subject
from training.evaluation.report.throughput import MeteredJudge, kept, record
from training.evaluation.run import judge_of


async def judge_report(args: argparse.Namespace) -> Path:
    """Judge the pairs of ``args.pairs`` and write the report; returns the page.

    Raises `DataError` for pairs that cannot be used, `EvaluationError` or `StartupError` where the judge cannot go on;
    what was judged until then is kept, and found again by the next run.
    """
    items = [Item(pair) for pair in read_pairs(args.pairs)]
    check_names(items, str(args.pairs))
    if args.limit is not None:
        items = limited(items, args.limit, args.seed)
    output: Path = args.output or Path("runs") / "judge-report" / args.pairs.stem
    times = output / "throughput.jsonl"
    async with judge_of(args) as asked:
        judge = MeteredJudge(asked)
        try:
            judged = await judge_all(
                judge,
                items,
                output / "answers.jsonl",
                batch=args.batch,
                concurrency=args.concurrency,
                title=judge.name,
            )
        finally:
            record(times, judge.version, judge.spent)
        subject = _subject(args, judge, judged)
    if not any(one.verdict for one in judged):
        raise EvaluationError(
            f"Not one of the {len(judged)} pairs could be judged; {output / 'answers.jsonl'} says why."
        )
    write_report(output, find(judged, worst=args.worst), kept(times, judge.version), subject)
    return output / "report.html"


def _subject(args: argparse.Namespace, judge: MeteredJudge, judged: list[Judged]) -> Subject:
    return Subject(
        judge=judge.name,
        version=judge.version,
        where=args.url or str(args.model),
        data=f"{args.pairs.name} ({len(judged):,} pairs)",
        sha256=_sha256(args.pairs),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        hardware_price=args.price * args.gpus,
        concurrency=args.concurrency,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
