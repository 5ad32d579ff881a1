"""A whole evaluation, read top to bottom: data, judge, answers, scores, files."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from training.data.pairs import DataError
from training.evaluation.answers import judge_all
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.benchmarks.base import Benchmark
from training.evaluation.benchmarks.files import Loaded, read_folder, read_hub
from training.evaluation.items import Item, check_names, limited
from training.evaluation.judges.base import EvaluationError, Judge
from training.evaluation.judges.baselines import Baseline
from training.evaluation.judges.http import ServiceJudge
from training.evaluation.results import Result, evaluate
from training.evaluation.tables import markdown, picture, summary

DATA_VARIABLE = "GRAM_DATA_DIR"


async def evaluate_all(args: argparse.Namespace) -> list[Result]:
    """Each benchmark of ``args.what`` in turn. What is wrong with any data is found before a judge starts."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request is no news beside a progress bar
    loaded = {name: load_items(BENCHMARKS[name], args) for name in args.what}
    results = []
    async with judge_of(args) as judge:
        output = args.output or Path("runs") / "evaluation" / judge.name
        for name, (source, items) in loaded.items():
            benchmark = BENCHMARKS[name]
            answers = output / f"{name}.answers.jsonl"
            judged = await judge_all(
                judge, items, answers, batch=args.batch, concurrency=args.concurrency, title=benchmark.title
            )
            results.append(
                evaluate(
                    benchmark,
                    judged,
                    judge=judge.name,
                    version=judge.version,
                    files=source.files,
                    seed=args.seed,
                    limit=args.limit,
                )
            )
            write(results[-1], output)
        if len(results) > 1:
            (output / "summary.md").write_text(summary(results), encoding="utf-8")
            print(f"{summary(results)}\nWritten: {output / 'summary.md'}")
    return results


def load_items(benchmark: Benchmark, args: argparse.Namespace) -> tuple[Loaded, list[Item]]:
    """The benchmark's items in their seeded positions. Raises `DataError`."""
    source = (
        read_hub(benchmark)
        if args.hub
        else read_folder(benchmark, _folder(benchmark, args.data), allow_changed=args.allow_changed)
    )
    items = benchmark.items(source.rows, args.seed)
    check_names(items, benchmark.title)
    return source, items if args.limit is None else limited(items, args.limit, args.seed)


def _folder(benchmark: Benchmark, data: Path | None) -> Path:
    if data is not None:
        return data
    base = os.environ.get(DATA_VARIABLE)
    if not base or not benchmark.folder:
        raise DataError(
            f"Where is {benchmark.title}? Name its folder or file with --data, or set {DATA_VARIABLE}, or --hub."
        )
    return Path(base) / benchmark.folder


@asynccontextmanager
async def judge_of(args: argparse.Namespace) -> AsyncIterator[Judge]:
    """The judge that the arguments name, ready."""
    if args.baseline:
        yield Baseline(args.baseline, args.seed)
    elif args.url:
        headers = {"Authorization": f"Bearer {read_key(args.key_file)}"} if args.key_file else {}
        timeout = httpx.Timeout(10.0, read=args.deadline + 30.0, pool=None)
        async with httpx.AsyncClient(base_url=args.url, headers=headers, timeout=timeout) as client:
            yield await ServiceJudge.connect(client, args.judge, args.votes, args.deadline)
    else:
        from training.evaluation.judges.checkpoint import opened

        async with opened(args.model, args.engine, args.judge, args.votes, family=args.family) as judge:
            yield judge


def read_key(path: Path) -> str:
    """The API key in a file. Raises `EvaluationError` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EvaluationError(f"The key file {path} cannot be read ({error.strerror}); correct --key-file.") from error


def write(result: Result, output: Path) -> None:
    """The result's JSON, table and picture; the headline on the terminal."""
    output.mkdir(parents=True, exist_ok=True)
    result.save(output / f"{result.benchmark}.json")
    (output / f"{result.benchmark}.md").write_text(markdown(result), encoding="utf-8")
    picture(result, output / f"{result.benchmark}.png")
    print(markdown(result, details=False))
    print(f"Written: {output / result.benchmark}.json, .md, .png, .answers.jsonl\n")
