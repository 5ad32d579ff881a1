"""What gram-client adds to a call: the same body by a bare httpx post and by the client, in turns."""

from __future__ import annotations

import asyncio
import json
import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import httpx
from rich.progress import track

from benchmarks.figures import Bar, Report
from benchmarks.servers import running_service
from gram_client import AsyncClient, Client, Group, Referenced

SUMMARY = (
    "One call after the other to a service on the fake engine, each made twice: as gram-client makes it, results read "
    "and checked, and as a post of the same bytes by a bare httpx client whose answer is not even parsed. Which comes "
    "first is drawn anew for each pair. Processor time is this process's own, in which the machine's other work has "
    "less of a share."
)
MOST_MS = 1.0
WARM_UP = 20
SERVICE = {
    "GRAM_ENGINE__TYPE": "fake",
    "GRAM_STORE__TYPE": "memory",
    "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}]',
}
HEADERS = ("call", "client", "bare ms", "client ms", "added ms", "added: quartiles", "added processor ms", "calls")
PROMPT = "What is the capital of Ireland?"
GROUP = Group("Compute 1 + 5.", [f"{i}" for i in range(8)])
PAIR = {"prompt": PROMPT, "response_a": "Dublin", "response_b": "Warsaw", "votes": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """One call: what the client is asked, and the path and body that it sends."""

    name: str
    ask: Callable[[Any], Any]
    path: str
    body: dict[str, Any]


CASES = (
    Case("/compare, one pair", lambda judge: judge.compare(PROMPT, "Dublin", "Warsaw"), "/compare", PAIR),
    Case(
        "/score, one response with its reference",
        lambda judge: judge.score_references([Referenced(PROMPT, "Dublin", "Warsaw")]),
        "/score",
        {"items": [{"prompt": PROMPT, "response": "Dublin", "reference": "Warsaw"}]},
    ),
    Case(
        "/score, a group of 8",
        lambda judge: judge.score_groups([GROUP]),
        "/score",
        {"groups": [{"prompt": GROUP.prompt, "responses": GROUP.responses}]},
    ),
)


@dataclass(slots=True)
class Timing:
    """Milliseconds of each pair of calls, and what the client's took more; ``processor`` likewise."""

    bare: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, bare: tuple[float, float], client: tuple[float, float]) -> None:
        self.bare.append(1000 * bare[0])
        self.client.append(1000 * client[0])
        self.added.append(1000 * (client[0] - bare[0]))
        self.processor.append(1000 * (client[1] - bare[1]))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=500, help="pairs of calls for each row (default 500)")


def run(arguments: Namespace) -> Report:
    timings: dict[tuple[str, str], Timing] = {}
    with running_service(SERVICE) as server:
        for case in CASES:
            timings[case.name, "sync"] = _sync(server.url, case, arguments.pairs)
            timings[case.name, "async"] = asyncio.run(_async(server.url, case, arguments.pairs))
    return _report(timings)


def _sync(url: str, case: Case, pairs: int) -> Timing:
    timing, content = Timing(), json.dumps(case.body).encode()
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as bare, Client(url) as judge:

        def post() -> None:
            bare.post(case.path, content=content).raise_for_status()

        for number in track(range(-WARM_UP, pairs), f"{case.name}, sync"):
            if random.random() < 0.5:
                first = _timed(post)
                second = _timed(lambda: case.ask(judge))
            else:
                second = _timed(lambda: case.ask(judge))
                first = _timed(post)
            if number >= 0:
                timing.add(first, second)
    return timing


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and of this process."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


async def _async(url: str, case: Case, pairs: int) -> Timing:
    timing, content = Timing(), json.dumps(case.body).encode()
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers) as bare, AsyncClient(url) as judge:

        async def post() -> None:
            (await bare.post(case.path, content=content)).raise_for_status()

        for number in track(range(-WARM_UP, pairs), f"{case.name}, async"):
            if random.random() < 0.5:
                first = await _awaited(post())
                second = await _awaited(case.ask(judge))
            else:
                second = await _awaited(case.ask(judge))
                first = await _awaited(post())
            if number >= 0:
                timing.add(first, second)
    return timing


async def _awaited(work: Awaitable[Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - wall, time.process_time() - processor


def _report(timings: dict[tuple[str, str], Timing]) -> Report:
    rows = []
    for (name, kind), timing in timings.items():
        low, _, high = quantiles(timing.added, n=4)
        figures = (median(timing.bare), median(timing.client), median(timing.added))
        spread = f"{low:.2f} .. {high:.2f}"
        rows.append(
            [
                *(name, kind),
                *(f"{x:.2f}" for x in figures),
                *(spread, f"{median(timing.processor):.2f}", str(len(timing.added))),
            ]
        )
    bars, raw = [], {}
    for (name, kind), timing in timings.items():
        called = f"{name}, {kind}"
        bars += [
            Bar(f"{called}: median ms a call takes longer than the bare post", median(timing.added), "<=", MOST_MS),
            Bar(f"{called}: median processor ms it takes more", median(timing.processor), "<=", MOST_MS),
        ]
        raw[called] = {"added_ms": _deciles(timing.added), "processor_ms": _deciles(timing.processor)}
    return Report("client", SUMMARY, HEADERS, rows, bars, raw)


def _deciles(values: list[float]) -> list[float]:
    return [round(value, 3) for value in quantiles(values, n=10)]
