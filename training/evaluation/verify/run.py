"""Verifying a released checkpoint, read top to bottom: figures, service, self-test, benchmarks, comparison."""

from __future__ import annotations

import argparse
import json
from contextlib import AsyncExitStack
from pathlib import Path

from service.settings import demo_model
from training.data.pairs import DataError
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.judges.base import EvaluationError
from training.evaluation.results import Result
from training.evaluation.run import evaluate_all, judge_of, load_items
from training.evaluation.verify.comparison import Line, compare, page, verdict
from training.evaluation.verify.published import Published, find, load_published
from training.evaluation.verify.self_test import self_test
from training.evaluation.verify.serving import served

FORMAT = 1
CPU_LIMIT = 200
"""Pairs of each benchmark where nobody says how many: all of them would take a processor days with a large judge."""


async def verify(args: argparse.Namespace) -> list[Line]:
    """Measure ``args.model`` through the service and set it beside what was published.

    ``args`` has the arguments of `evaluate`, and those of `training.commands.verify`. Raises `EvaluationError` and
    `DataError`.
    """
    if args.model is None and args.url is None:
        args.model = demo_model()
    published = _published(args)
    if args.limit is None and args.url is None and args.device == "cpu":
        args.limit = CPU_LIMIT
    for name in args.what:  # missing data is found before a model is loaded
        load_items(BENCHMARKS[name], args)
    async with AsyncExitStack() as stack:
        if args.url is None:
            start = served(args.model, args.engine, args.device, published, args.family, args.start_s)
            args.url = await stack.enter_async_context(start)
        print(f"The service answers at {args.url}.")
        await _self_test(args)
        results = await evaluate_all(args)
    lines = compare(results, published)
    _write(lines, results, published, args)
    return lines


def _published(args: argparse.Namespace) -> Published | None:
    """The row of the checkpoint, or of the name that is given. Raises `EvaluationError` for a name without a row."""
    rows = load_published(args.published)
    found = find(rows, args.name or args.model or "")
    if found is None and args.name:
        names = ", ".join(row.name for row in rows)
        raise EvaluationError(f"Nothing published is known of {args.name}; there are figures of {names}.")
    if found is None:
        print(f"Nothing published is known of {args.model}; its scores are measured and compared with nothing.")
    return found


async def _self_test(args: argparse.Namespace) -> None:
    """The checkpoint's own pair, which its start has asked, or ours."""
    if args.model and (Path(args.model) / "judge.json").is_file():
        print("Self-test: passed (the pair of its judge.json, at the start of the service).")
        return
    if args.skip_self_test:
        print("Self-test: skipped.")
        return
    async with judge_of(args) as judge:
        print(f"Self-test: passed ({await self_test(judge)}).")


def _write(lines: list[Line], results: list[Result], published: Published | None, args: argparse.Namespace) -> None:
    if not results:
        raise DataError("No benchmark was measured.")
    model = args.name or (Path(args.model).name if args.model else results[0].judge)
    output = args.output or Path("runs") / "evaluation" / results[0].judge
    text = page(lines, results, published, model)
    (output / "verify.md").write_text(text, encoding="utf-8")
    data = {
        "format": FORMAT,
        "model": model,
        "judge": results[0].version,
        "limit": args.limit,
        "source": published.source if published else None,
        "lines": [line.as_json() for line in lines],
    }
    (output / "verify.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(f"\n{text}\n{verdict(lines)}\nWritten: {output / 'verify.md'}, verify.json")
