"""Requests whose deadline comes before their answer: how late they end, and that they leave nothing behind."""

from __future__ import annotations

import asyncio
import math
import random
import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from rich.progress import Progress

from benchmarks.counts import add_counts, counted, seed_of
from benchmarks.figures import Bar, Report
from benchmarks.servers import running_service
from benchmarks.wire import Connection, connected, get, post

SUMMARY = (
    "Deadlines drawn between 1 ms and 5 s, spread evenly over their logarithms, for requests of every kind to a fake "
    "engine that takes 10 s: in the engine, and where there is room for eight prompts only, in line. Overrun: what the "
    "caller waits beyond its deadline."
)
REQUESTS = 5000
CLIENTS = 64
SHORTEST_MS, LONGEST_MS = 1, 5000
MOST_OVERRUN_S, MOST_LEFT_S = 0.25, 1.0
SERVICE = {
    "GRAM_ENGINE__TYPE": "fake",
    "GRAM_ENGINE__DELAY_S": "10",
    "GRAM_LIMITS__CANARY_S": "0",  # cut off always, the engine looks silent: it would be asked for a token
    "GRAM_STORE__TYPE": "memory",
    "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}, {"name": "gram_r2", "family": "gram_r2"}]',
}
PLACES: Mapping[str, Mapping[str, str]] = {
    "engine": {},
    "line": {"GRAM_LIMITS__MAX_PROMPTS": "8", "GRAM_LIMITS__MAX_WAITING": "10000"},
}
STATUSES: Mapping[str, frozenset[int]] = {"engine": frozenset({504}), "line": frozenset({503, 504})}
HEADERS = ("where", "requests", "statuses", "overrun p50 ms", "p99 ms", "largest ms", "engine empty after s", "entries")


@dataclass(slots=True)
class Outcome:
    """``overruns`` in seconds; ``empty_s``: until nothing was left in the engine; ``entries`` of the reward queue."""

    statuses: Counter[int] = field(default_factory=Counter)
    overruns: list[float] = field(default_factory=list)
    empty_s: float = math.inf
    entries: int = 0

    @property
    def cuts(self) -> list[float]:
        return quantiles(self.overruns, n=100)


def add_arguments(parser: ArgumentParser) -> None:
    add_counts(parser)


def run(arguments: Namespace) -> Report:
    seed, rows, bars = seed_of(arguments), [], []
    count, examples = counted(arguments, REQUESTS // len(PLACES), at_least=100), 0
    for place, limits in PLACES.items():
        with running_service(SERVICE | dict(limits)) as server:
            outcome = asyncio.run(_measure(server.url, count, random.Random(f"{seed} {place}")))
        examples += sum(outcome.statuses.values())
        rows.append(_row(place, outcome))
        others = sum(n for status, n in outcome.statuses.items() if status not in STATUSES[place])
        bars += [
            Bar(f"{place}: overrun p99, ms", 1000 * outcome.cuts[98], "<=", 1000 * MOST_OVERRUN_S),
            Bar(f"{place}: other replies than {sorted(STATUSES[place])}", others, "<=", 0),
            Bar(f"{place}: seconds until the engine was empty", outcome.empty_s, "<=", MOST_LEFT_S),
            Bar(f"{place}: scores that entered the queue", outcome.entries, "<=", 0),
        ]
    return Report("deadlines", SUMMARY, HEADERS, rows, bars, {"seed": seed, "examples": examples}, [f"seed {seed}"])


async def _measure(url: str, count: int, draw: random.Random) -> Outcome:
    outcome, numbers = Outcome(), iter(range(count))
    with Progress() as progress:
        task = progress.add_task("deadlines", total=count)

        async def client() -> None:
            async with connected(url) as connection:
                for number in numbers:
                    deadline_ms = round(SHORTEST_MS * (LONGEST_MS / SHORTEST_MS) ** draw.random())
                    path, body = _question(number)
                    reply = await connection.ask(post(path, body, x_deadline_ms=str(deadline_ms)))
                    outcome.statuses[reply.status] += 1
                    outcome.overruns.append(reply.seconds - deadline_ms / 1000)
                    progress.advance(task)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    async with connected(url) as connection:
        outcome.empty_s = await until_empty(connection, 10 * MOST_LEFT_S)
        queues = (await connection.ask(get("/queues"))).json()["queues"]
        outcome.entries = sum(queue["count"] for queue in queues)
    return outcome


def _question(number: int) -> tuple[str, dict[str, Any]]:
    prompt = f"Question {number}?"
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/compare", {"prompt": prompt, "response_a": "yes", "response_b": "no"}),
        ("/rank", {"prompt": prompt, "responses": ["yes", "no", "perhaps"]}),
        ("/rationale", {"prompt": prompt, "response_a": "yes", "response_b": "no"}),
        (
            "/score",
            {
                "items": [{"prompt": prompt, "response": "yes", "reference": "no"}],
                "normalize": {"queue": "deadlines", "min_count": 2},
            },
        ),
    ]
    return bodies[number % len(bodies)]


async def until_empty(connection: Connection, patience_s: float) -> float:
    """Seconds until no prompt is in the engine and no request inside; infinite if that does not come."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while loop.time() - started < patience_s:
        text = (await connection.ask(get("/metrics"))).body.decode()
        if all(_gauge(text, name) == 0 for name in ("gram_engine_unfinished", "gram_prompts_inside")):
            return loop.time() - started
        await asyncio.sleep(0.01)
    return math.inf


def _gauge(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def _row(place: str, outcome: Outcome) -> list[str]:
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(outcome.statuses.items()))
    cuts = outcome.cuts
    figures = (cuts[49], cuts[98], max(outcome.overruns))
    total = str(sum(outcome.statuses.values()))
    return [
        *(place, total, statuses, *(f"{1000 * seconds:.0f}" for seconds in figures)),
        *(f"{outcome.empty_s:.2f}", str(outcome.entries)),
    ]
