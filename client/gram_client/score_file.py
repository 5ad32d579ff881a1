"""``score-file``: judge every row of a JSONL file, several requests at a time, and go on where a run stopped."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gram_client.async_client import AsyncClient
from gram_client.commands import add_run_options, carried_out, require_positive
from gram_client.files import (
    GROUPS,
    PAIRS,
    PREFERENCES,
    REFERENCES,
    Done,
    FileProblem,
    Json,
    Kind,
    Source,
    check_same,
    pair_line,
    resume,
    score_lines,
)
from gram_client.items import GroupMethod
from gram_client.progress import Progress
from gram_client.transport import KEY_VARIABLE

EXAMPLES = """rows, a JSON object a line; what its fields are says what is asked:
  prompt, response_a, response_b    which is better
  prompt, chosen, rejected          the same; preferred "a" is the chosen one
  prompt, response, reference       P(response better than reference)
  prompt, responses                 each response's mean win probability over the others
  prompt, response                  for scalar judges

A prompt is a text or a list of {"role", "content"}. Run the same command again to go on where it stopped.
The service's key, if it wants one, is read from the environment variable GRAM_API_KEY."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every row."""

    votes: int = 1
    method: GroupMethod | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of one request: the first one's index, their ids and digests, and their items."""

    first: int
    rows: Sequence[Json]
    digests: Sequence[str]
    items: Sequence[Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("input", type=Path, help="rows to judge, JSONL")
    parser.add_argument("output", type=Path, help="where the answers go, a line for each row; continued if it exists")
    parser.add_argument("--votes", type=int, default=1, help="votes in each order, for pairs (default: 1)")
    parser.add_argument("--method", choices=["all_pairs", "pivot", "swiss"], help="for groups (default: all_pairs)")
    parser.add_argument("--batch", type=int, default=64, help="rows of one request (default: %(default)s)")
    add_run_options(parser, "requests")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or what `carried_out` says."""
    done = carried_out(lambda: asyncio.run(_run(options)), options.output, options.overwrite)
    if isinstance(done, int):
        return done
    print(f"{len(done.digests)} rows in {options.output}, {done.failed} of them failed.", file=sys.stderr)
    return 0


async def _run(options: argparse.Namespace) -> Done:
    require_positive(options, "batch", "at_once", "votes")
    client = AsyncClient(
        options.url,
        api_key=os.environ.get(KEY_VARIABLE),
        judge=options.judge,
        timeout_s=options.timeout,
        max_chunk=1_000_000,  # batches are cut here
    )
    shown = None if options.quiet else sys.stderr
    asked = Asked(options.votes, options.method)
    return await score_file(client, options.input, options.output, asked, options.batch, options.at_once, shown)


async def score_file(
    client: AsyncClient, source: Path, target: Path, asked: Asked, batch: int, at_once: int, shown: TextIO | None
) -> Done:
    """Judge the rows of `source` that `target` does not answer yet, `batch` a request; what `target` then holds.

    Raises `FileProblem`, and the `ScoringError` of a request; what was answered before it is written.
    """
    rows = Source.open(source)
    done = resume(target)
    if len(done.digests) > rows.count:
        raise FileProblem(f"{target} has more rows than {source}; name another output, or begin anew with --overwrite.")
    progress = Progress(rows.count, len(done.digests), shown)
    progress.failed = done.failed
    digests = list(done.digests)
    with target.open("ab") as file:
        try:
            answers = _answers(client, rows.kind, asked, _batches(rows, done, target, batch), at_once)
            async with client, aclosing(answers):
                async for one, lines in answers:
                    file.write(b"".join(map(_encoded, lines)))
                    file.flush()
                    digests += one.digests
                    progress.advance(len(lines), sum(line["status"] != "ok" for line in lines))
        finally:
            progress.close()
    return Done(tuple(digests), progress.failed)


def _encoded(line: Json) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _batches(source: Source, done: Done, target: Path, size: int) -> Iterator[Batch]:
    rows: list[Json] = []
    digests: list[str] = []
    first = len(done.digests)
    for index, (row, found) in enumerate(source.rows()):
        if index < len(done.digests):
            check_same(done, index, found, source.path, target)
            continue
        rows.append(row)
        digests.append(found)
        if len(rows) == size or index == source.count - 1:
            yield Batch(first, rows, digests, list(map(source.kind.item, rows)))
            first, rows, digests = index + 1, [], []


async def _answers(
    client: AsyncClient, kind: Kind, asked: Asked, batches: Iterator[Batch], at_once: int
) -> AsyncGenerator[tuple[Batch, list[Json]], None]:
    """The lines of each batch, in order, while the next ones are asked for."""
    waiting: deque[asyncio.Task[tuple[Batch, list[Json]]]] = deque()
    try:
        for batch in batches:
            if len(waiting) == at_once:
                yield await waiting.popleft()
            waiting.append(asyncio.ensure_future(_judge(client, kind, asked, batch)))
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _judge(client: AsyncClient, kind: Kind, asked: Asked, batch: Batch) -> tuple[Batch, list[Json]]:
    lines = await _ask(client, kind, asked, batch.items)
    heads = [
        {"index": batch.first + i, "id": row.get("id"), "row": found}
        for i, (row, found) in enumerate(zip(batch.rows, batch.digests, strict=True))
    ]
    return batch, [head | line for head, line in zip(heads, lines, strict=True)]


async def _ask(client: AsyncClient, kind: Kind, asked: Asked, items: Sequence[Any]) -> list[Json]:
    if kind in (PAIRS, PREFERENCES):
        return list(map(pair_line, await client.compare_many(items, votes=asked.votes)))
    if kind is GROUPS:
        return score_lines(await client.score_groups(items, method=asked.method), kind)
    if kind is REFERENCES:
        return score_lines(await client.score_references(items), kind)
    return score_lines(await client.score_single(items), kind)
