"""Callers that hang up, at every stage of a request: what they leave in the engine, and in the reward queue."""

from __future__ import annotations

import asyncio
import contextlib
import random
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from rich.progress import Progress

from benchmarks.counts import add_counts, counted, seed_of
from benchmarks.deadlines import until_empty
from benchmarks.figures import Bar, Report
from benchmarks.servers import running_service
from benchmarks.wire import Connection, Cut, connected, get, open_connection, post

SUMMARY = (
    "Connections cut by a FIN or an RST at ten stages. Where callers wait for answers the fake engine takes 30 s, "
    "so an engine that is empty was told to stop; where scores are committed it takes 10 ms and the cut comes 30 ms "
    "later on average, so that some come before, some in the middle of, and some after the commit of three scores each."
)
CUTS = 2000
AT_ONCE = 25
MOST_LEFT_S, PATIENCE_S = 1.0, 10.0
COMMON = {
    "GRAM_ENGINE__TYPE": "fake",
    "GRAM_STORE__TYPE": "memory",
    "GRAM_CACHE__ENTRIES": "0",
    "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}, {"name": "gram_r2", "family": "gram_r2"}]',
}
SLOW = COMMON | {"GRAM_ENGINE__DELAY_S": "30", "GRAM_LIMITS__MAX_PROMPTS": "64"}
QUICK = COMMON | {"GRAM_ENGINE__DELAY_S": "0.01", "GRAM_ENGINE__TOKEN_DELAY_S": "0.01"}
ROWS = 3
HEADERS = ("stage", "cuts", "slowest until all is empty, s")

PAIR = {"prompt": "What is 7 + 5?", "response_a": "12", "response_b": "13"}
MEMBER = {"prompt": "q", "response": "r", "cohort": {"group_id": "g", "size": 2, "index": 0}}
COMMIT = {
    "items": [{"prompt": f"q{n}", "response": "yes", "reference": "no"} for n in range(ROWS)],
    "normalize": {"queue": "cuts", "min_count": 2},
}
WHOLE = post("/compare", PAIR)
STREAM = post("/rationale", PAIR | {"stream": True})


async def _waits(connection: Connection, draw: random.Random) -> None:
    connection.write(WHOLE)
    await asyncio.sleep(draw.uniform(0, 0.05))


async def _rank(connection: Connection, draw: random.Random) -> None:
    connection.write(post("/rank", {"prompt": "q", "responses": ["a", "b", "c", "d"]}))
    await asyncio.sleep(draw.uniform(0, 0.05))


async def _half(connection: Connection, draw: random.Random) -> None:
    connection.write(WHOLE[: draw.randrange(1, len(WHOLE))])
    await asyncio.sleep(draw.uniform(0, 0.01))


async def _nothing(connection: Connection, draw: random.Random) -> None:
    await asyncio.sleep(draw.uniform(0, 0.01))


async def _at_once(connection: Connection, draw: random.Random) -> None:
    connection.write(WHOLE)


async def _in_line(connection: Connection, draw: random.Random) -> None:
    """Twenty pairs take 40 of 64 prompts, so that most of these find no room."""
    connection.write(post("/compare", {"items": [PAIR | {"prompt": f"q{n}"} for n in range(20)]}))
    await asyncio.sleep(draw.uniform(0.01, 0.05))


async def _in_cohort(connection: Connection, draw: random.Random) -> None:
    connection.write(post("/score", {"items": [MEMBER]}))
    await asyncio.sleep(draw.uniform(0, 0.05))


async def _pipelined(connection: Connection, draw: random.Random) -> None:
    connection.write(WHOLE * 3)
    await asyncio.sleep(draw.uniform(0, 0.03))


async def _in_stream(connection: Connection, draw: random.Random) -> None:
    connection.write(STREAM)
    await asyncio.sleep(draw.uniform(0, 0.2))


async def _in_commit(connection: Connection, draw: random.Random) -> None:
    connection.write(post("/score", COMMIT))
    await asyncio.sleep(draw.expovariate(1 / 0.03))


Stage = Callable[[Connection, random.Random], Awaitable[None]]
STAGES: Mapping[str, tuple[Stage, bool]] = {
    "connected": (_nothing, True),
    "half a request": (_half, True),
    "sent this moment": (_at_once, True),
    "in the engine": (_waits, True),
    "a ranking in the engine": (_rank, True),
    "in line": (_in_line, True),
    "waiting for its group": (_in_cohort, True),
    "with others behind it": (_pipelined, True),
    "in a stream": (_in_stream, False),
    "around a commit": (_in_commit, False),
}
"""How a caller comes to the moment at which it hangs up, and whether the engine is a slow one."""


@dataclass(slots=True)
class Found:
    """``left_s``: the longest until nothing was left, by stage; ``entries`` of the reward queue at the end."""

    cuts: Counter[str] = field(default_factory=Counter)
    left_s: dict[str, float] = field(default_factory=dict)
    entries: int = 0
    broken: int = 0


def add_arguments(parser: ArgumentParser) -> None:
    add_counts(parser)


def run(arguments: Namespace) -> Report:
    seed, found = seed_of(arguments), Found()
    each = counted(arguments, CUTS // len(STAGES), at_least=10)
    with Progress() as progress:
        task = progress.add_task("cuts", total=each * len(STAGES))
        for environment, slow in ((SLOW, True), (QUICK, False)):
            names = [name for name, (_, is_slow) in STAGES.items() if is_slow == slow]
            with running_service(environment) as server:
                for name in names:
                    asyncio.run(_cut(server.url, name, each, random.Random(f"{seed} {name}"), found))
                    progress.advance(task, each)
                asyncio.run(_afterwards(server.url, found, ask=not slow))
    rows = [[name, str(found.cuts[name]), f"{found.left_s[name]:.3f}"] for name in STAGES]
    bars = [
        Bar("slowest until engine and service were empty, s", max(found.left_s.values()), "<=", MOST_LEFT_S),
        Bar("commits that entered in part", found.entries % ROWS, "<=", 0),
        Bar("requests that were not answered well afterwards", found.broken, "<=", 0),
    ]
    notes = [f"seed {seed}; {found.entries} scores entered the queue, of {ROWS * found.cuts['around a commit']} sent"]
    raw = {"seed": seed, "examples": sum(found.cuts.values()), "left_s": found.left_s, "entries": found.entries}
    return Report("disconnects", SUMMARY, HEADERS, rows, bars, raw, notes)


async def _cut(url: str, name: str, count: int, draw: random.Random, found: Found) -> None:
    """`AT_ONCE` callers at a time, all gone before it is looked how long their work goes on."""
    stage, _ = STAGES[name]

    async def caller() -> None:
        connection = await open_connection(url)
        with contextlib.suppress(Cut):  # answered and closed before it could hang up
            await stage(connection, draw)
        connection.close(reset=draw.random() < 0.5)
        found.cuts[name] += 1

    async with connected(url) as probe:
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*(caller() for _ in range(min(AT_ONCE, count - start))))
            left = await until_empty(probe, PATIENCE_S)
            found.left_s[name] = max(found.left_s.get(name, 0.0), left)


async def _afterwards(url: str, found: Found, *, ask: bool) -> None:
    async with connected(url) as connection:
        queues = (await connection.ask(get("/queues"))).json()["queues"]
        found.entries += sum(queue["count"] for queue in queues)
        for _ in range(10 if ask else 0):
            reply = await connection.ask(WHOLE)
            found.broken += reply.status != 200 or reply.json()["status"] != "ok"
