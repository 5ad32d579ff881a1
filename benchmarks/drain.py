"""SIGTERM with 64 requests in flight, again and again: what each of them gets, and what stays behind."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

import psutil
from rich.progress import Progress

from benchmarks.counts import add_counts, counted, seed_of
from benchmarks.figures import Bar, Report
from benchmarks.mixed import Asked, draw, lasting
from benchmarks.processes import Server
from benchmarks.servers import start_service
from benchmarks.wire import Connection, Cut, connected, open_connection

SUMMARY = (
    "A service is started, 64 callers ask one thing after the other, and SIGTERM comes at a random moment. Every "
    "request that was on its way must get either the very answer it gets alone, or a 503 that sends it elsewhere. In "
    "every third round the time to drain is too short, and the service says so by its exit status."
)
CLIENTS = 64
STOPS = 50
POOL = {"fake": 64, "vllm": 64}
WEIGHTS = (30, 10, 10, 20, 10, 20)
READY_S = 300.0
LONG_DRAIN_S = {"fake": 10.0, "vllm": 60.0}
SHORT_DRAIN_S = 0.3
HARD_S = 10.0
"""After the time to drain: when the process must have ended."""
ENVIRONMENT = {
    "fake": {
        "GRAM_ENGINE__TYPE": "fake",
        "GRAM_ENGINE__DELAY_S": "0.4",
        "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}, {"name": "gram_r2", "family": "gram_r2"}]',
    },
    "vllm": {"GRAM_ENGINE__DTYPE": "float32"},
}
COMMON = {"GRAM_STORE__TYPE": "memory", "GRAM_CACHE__ENTRIES": "0"}
HEADERS = (
    "rounds",
    "time to drain",
    "in flight",
    "how they ended",
    "exit statuses",
    "seconds to the end: median, most",
)


@dataclass(slots=True)
class Round:
    """One stop. ``ends`` are what became of the requests that were on their way when the signal came; ``expired``:
    those of them that were refused at the end of the time to drain."""

    drain_s: float
    in_flight: int = 0
    expired: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    cut: int = 0
    status: int | None = None
    seconds: float = float("inf")
    children: int = 0

    @property
    def hangs(self) -> bool:
        return self.seconds > self.drain_s + HARD_S

    @property
    def lies(self) -> bool:
        """The exit status must be 1 exactly where a request was cut off by the end of the time to drain."""
        return self.status not in (0, 1) or (self.status == 1) != (self.expired > 0)


def add_arguments(parser: ArgumentParser) -> None:
    add_counts(parser)
    parser.add_argument("--engine", choices=list(ENVIRONMENT), default="fake")


def run(arguments: Namespace) -> Report:
    seed = seed_of(arguments)
    chooser, requests = random.Random(seed), draw(POOL[arguments.engine], seed, WEIGHTS)
    rounds: list[Round] = []
    expected: list[bytes] = []
    count = counted(arguments, STOPS, at_least=3)
    with Progress() as progress:
        task = progress.add_task("stops", total=count)
        for number in range(count):
            drain_s = SHORT_DRAIN_S if number % 3 == 2 else LONG_DRAIN_S[arguments.engine]
            environment = COMMON | ENVIRONMENT[arguments.engine] | {"GRAM_SERVER__DRAIN_S": str(drain_s)}
            with start_service(environment) as server:
                server.wait("/readyz", READY_S)
                expected = expected or asyncio.run(_alone(server.url, requests))
                rounds.append(asyncio.run(_stop(server, Round(drain_s), requests, expected, chooser)))
            progress.advance(task)
    return _report(rounds, seed, arguments.engine)


async def _alone(url: str, requests: list[Asked]) -> list[bytes]:
    """Once, by as many callers as the engine takes in its stride."""

    async def one(asked: Asked) -> bytes:
        async with connected(url) as connection:
            reply = await connection.ask(asked.request)
        if reply.status != 200:
            raise RuntimeError(f"A {asked.kind} request was answered {reply.status}: {reply.body[:300]!r}")
        return lasting(reply)

    return [await one(asked) for asked in requests]


async def _stop(
    server: Server, found: Round, requests: list[Asked], expected: list[bytes], chooser: random.Random
) -> Round:
    """Load, the signal, and everything that happens until the process is gone."""
    signalled = asyncio.Event()
    asking, started = 0, float("inf")

    async def client(place: int) -> None:
        nonlocal asking
        connection = await open_connection(server.url)
        while not signalled.is_set():
            place = (place + CLIENTS) % len(requests) if len(requests) > CLIENTS else place
            asking += 1
            end, right = await _end_of(connection, requests[place], expected[place])
            asking -= 1
            if signalled.is_set():
                found.ends[end] += 1
                found.wrong += not right
                found.cut += end.startswith("cut")
                found.expired += end == "503" and time.monotonic() - started >= 0.9 * found.drain_s
        connection.close()

    clients = [asyncio.create_task(client(place % len(requests))) for place in range(CLIENTS)]
    await asyncio.sleep(chooser.uniform(0.5, 1.5))
    known = server.processes()
    found.in_flight = asking
    signalled.set()
    started = time.monotonic()
    known[0].send_signal(signal.SIGTERM)
    await asyncio.to_thread(_await_end, server, found, started, known)
    await asyncio.wait(clients, timeout=5)
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return found


def _await_end(server: Server, found: Round, started: float, known: list[psutil.Process]) -> None:
    found.status = server.wait_for_exit(found.drain_s + HARD_S + 5)
    found.seconds = time.monotonic() - started if found.status is not None else float("inf")
    _, alive = psutil.wait_procs(known, timeout=2)
    found.children = len(alive)


async def _end_of(connection: Connection, asked: Asked, expected: bytes) -> tuple[str, bool]:
    """How the request ended, and whether that is one of the two good ways."""
    try:
        reply = await connection.ask(asked.request)
    except Cut as error:
        return f"cut {error}", False
    if reply.status == 200:
        return "200", lasting(reply) == expected
    return str(reply.status), reply.status == 503 and reply.retry_after_s is not None


def _report(rounds: list[Round], seed: int, engine: str) -> Report:
    rows = []
    for drain_s in sorted({one.drain_s for one in rounds}, reverse=True):
        some = [one for one in rounds if one.drain_s == drain_s]
        ends: Counter[str] = sum((one.ends for one in some), Counter())
        seconds = [one.seconds for one in some]
        rows.append(
            [
                *(str(len(some)), f"{drain_s:g} s", str(sum(one.in_flight for one in some))),
                ", ".join(f"{count} x {end}" for end, count in sorted(ends.items())),
                ", ".join(f"{n} x {status}" for status, n in Counter(one.status for one in some).items()),
                f"{median(seconds):.1f}, {max(seconds):.1f}",
            ]
        )
    bars = [
        Bar("answers that are not the one alone, or errors that send nobody elsewhere", _sum(rounds, "wrong"), "<=", 0),
        Bar("of those, requests cut off without or in a reply", _sum(rounds, "cut"), "<=", 0),
        Bar("requests in flight a round, at least", min(one.in_flight for one in rounds), ">=", CLIENTS * 0.75),
        Bar("processes that ended too late or not at all", sum(one.hangs for one in rounds), "<=", 0),
        Bar("child processes left", _sum(rounds, "children"), "<=", 0),
        Bar("exit statuses that do not say whether requests were cut off", sum(one.lies for one in rounds), "<=", 0),
    ]
    raw = {"seed": seed, "examples": len(rounds), "seconds": [one.seconds for one in rounds], "engine": engine}
    return Report("drain", SUMMARY, HEADERS, rows, bars, raw, [f"seed {seed}, {engine} engine"])


def _sum(rounds: list[Round], name: str) -> int:
    return sum(getattr(one, name) for one in rounds)
