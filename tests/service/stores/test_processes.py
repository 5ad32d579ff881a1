"""Several processes on one durable store, and processes that are killed in the middle of it."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.normalization import WindowStats
from service.stores.base import CommitResult, Queue
from tests.support.properties import count, scaled
from tests.support.redis_server import shared_server
from tests.support.reference import check_replay, expected_stats
from tests.support.store_writer import KEY, WINDOW, store_at
from tests.support.stores import prefix_for

PROCESSES = 4
pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that nobody has used, as `tests.support.store_writer` names it."""
    if request.param == "redis":
        return f"{shared_server().url}#{prefix_for(tmp_path)}"
    return str(tmp_path / "rewards.sqlite")


def writer(root: Path, where: str, seed: int, commits: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.store_writer", where, str(seed), str(commits)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def lines_of(output: str) -> list[dict[str, Any]]:
    """The complete lines; a killed process may have cut its last one."""
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]


def acknowledged(output: str) -> list[CommitResult]:
    """The commits whose reply arrived."""
    replies = [line for line in lines_of(output) if "seq" in line]
    return [
        CommitResult(line["epoch"], *line["seq"], WindowStats(*line["stats"]), tuple(line["scores"]))
        for line in replies
    ]


async def recovered(where: str) -> Queue | None:
    """The shared queue, from a store opened anew that also takes writes."""
    store = store_at(where)
    await store.start()
    try:
        await store.ping()
        return await store.get(KEY)
    finally:
        await store.close()


def test_four_processes_lose_and_double_nothing(root: Path, where: str) -> None:
    """4 processes x 5,000 commits (2 % of them in the suite), started together on no queue at all."""
    commits = scaled(5_000, at_least=50)
    writers = [writer(root, where, seed, commits) for seed in range(PROCESSES)]
    outputs = [process.communicate()[0] for process in writers]
    assert [process.returncode for process in writers] == [0] * PROCESSES
    results = [result for output in outputs for result in acknowledged(output)]
    assert len(results) == PROCESSES * commits
    history = check_replay(results, WINDOW)
    queue = asyncio.run(recovered(where))
    assert queue is not None
    assert (queue.seq_last, queue.scores) == (len(history), tuple(history[-WINDOW:]))
    count(len(results))


def test_a_killed_writer_leaves_whole_commits(root: Path, where: str) -> None:
    """100 times kill -9 at random moments (a few in the suite): acknowledged is a subset of recovered, recovered of
    sent, and nothing is half-written."""
    generator = random.Random(1)
    known: list[CommitResult] = []
    for kill in range(scaled(100, at_least=4)):
        process = writer(root, where, kill, 1_000_000)
        assert process.stdout is not None
        first = process.stdout.readline()  # it is connected and sends its first batch
        time.sleep(generator.uniform(0.0, 0.2))
        process.kill()
        output = first + process.communicate()[0]
        known += acknowledged(output)
        known += unanswered(known, output, asyncio.run(recovered(where)))
        count()
    assert len(known) > 20
    check_replay(known, WINDOW)


def unanswered(known: Sequence[CommitResult], output: str, queue: Queue | None) -> list[CommitResult]:
    """The one commit that happened and whose reply the kill kept from being printed, if there is one.

    Checks that the recovered queue holds all that is known and at most that commit besides, whole.
    """
    seq_last = max((result.seq_last for result in known), default=0)
    if queue is None:
        assert not known
        return []
    extra: list[CommitResult] = []
    if queue.seq_last != seq_last:
        scores = tuple([line["sending"] for line in lines_of(output) if "sending" in line][-1])
        assert queue.seq_last == seq_last + len(scores)
        stats = expected_stats(queue.scores, WINDOW)
        extra.append(CommitResult(queue.epoch, seq_last + 1, queue.seq_last, stats, scores))
    history = check_replay([*known, *extra], WINDOW) if len(known) < 500 else tail([*known, *extra])
    assert queue.scores == tuple(history[-WINDOW:])
    return extra


def tail(results: Sequence[CommitResult]) -> list[float]:
    """The last window in seq order; the whole history is replayed once, at the end."""
    last = sorted(results, key=lambda result: result.seq_first)[-WINDOW:]
    return [score for result in last for score in result.scores]
