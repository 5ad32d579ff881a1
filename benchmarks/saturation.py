"""Four times more callers than there is room for: who is refused, how fast, and what the others still get."""

from __future__ import annotations

import asyncio
import itertools
import random
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass, field
from statistics import median, quantiles

from rich.progress import Progress

from benchmarks.counts import add_counts, counted, seed_of
from benchmarks.figures import Bar, Report
from benchmarks.servers import running_service
from benchmarks.wire import Cut, connected, get, post

INSIDE, IN_LINE, DELAY_S = 64, 64, 0.4
SUMMARY = (
    f"Pairs to a service on the fake engine that takes {1000 * DELAY_S:.0f} ms for an answer, with room for {INSIDE} "
    f"at a time and {IN_LINE} in line. Clients ask one pair after the other and come again when they are told to, "
    "or a bit later, as the client library does. Times are the callers' own."
)
SERVICE = {
    "GRAM_ENGINE__TYPE": "fake",
    "GRAM_ENGINE__DELAY_S": str(DELAY_S),
    "GRAM_STORE__TYPE": "memory",
    "GRAM_CACHE__ENTRIES": "0",
    "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}]',
    "GRAM_LIMITS__MAX_PROMPTS": str(2 * INSIDE),
    "GRAM_LIMITS__MAX_WAITING": str(IN_LINE),
}
PEAK_CLIENTS, MANY_CLIENTS, FEW_CLIENTS = 100, 400, 16
REQUESTS = 20_000
PEAK_S, CALM_S, RAMP_S = 15.0, 6.0, 2.0
PROBE_S, WINDOW_S, RECOVERY_S = 0.05, 1.0, 12.0
NORMAL = 1.25
"""Times the calm median: what counts as normal again."""
HEADERS = ("phase", "clients", "seconds", "200s", "200s a second", "503s", "p50 ms of 200s", "slowest 503 ms")


@dataclass(slots=True)
class Phase:
    """What callers saw, from ``began`` on. ``refused``: seconds until a 503, of which ``refusing`` in the service."""

    name: str
    clients: int
    began: float = 0.0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    served: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    refusing: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    lost: int = 0

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())

    @property
    def rate(self) -> float:
        """200s a second, without the first of them that fill the service up."""
        late = [at for at, _ in self.served if at >= RAMP_S]
        return len(late) / (self.seconds - RAMP_S) if self.seconds > RAMP_S else float("nan")

    @property
    def p50(self) -> float:
        return median(seconds for _, seconds in self.served) if self.served else float("nan")

    def row(self) -> list[str]:
        slowest = f"{1000 * max(self.refused):.1f}" if self.refused else ""
        return [
            *(self.name, str(self.clients), f"{self.seconds:.1f}", str(self.statuses[200]), f"{self.rate:.0f}"),
            *(str(self.statuses[503]), f"{1000 * self.p50:.0f}", slowest),
        ]


def add_arguments(parser: ArgumentParser) -> None:
    add_counts(parser)


def run(arguments: Namespace) -> Report:
    seed = seed_of(arguments)
    with running_service(SERVICE) as server:
        phases, probes = asyncio.run(_measure(server.url, counted(arguments, REQUESTS, 1200), seed))
    calm, peak, flood, after = phases
    bars = [
        Bar("replies that were neither 200 nor 503, or none", _others(phases), "<=", 0),
        Bar("503s without Retry-After", sum(phase.without_retry_after for phase in phases), "<=", 0),
        Bar("slowest 503, ms", 1000 * max(flood.refused, default=float("nan")), "<=", 50),
        Bar("/livez during the flood, p95 ms", 1000 * quantiles(probes, n=20)[18], "<=", 200),
        Bar(f"goodput at {MANY_CLIENTS} callers, of that at {PEAK_CLIENTS}", flood.rate / peak.rate, ">=", 0.9),
        Bar("seconds until times were normal again", _until_normal(after, calm.p50), "<=", 10),
    ]
    raw = {"seed": seed, "examples": sum(p.answers for p in phases), "refused_ms": _spread(flood.refused)}
    raw["refusing_ms"] = _spread(flood.refusing)
    times = f"503s, ms: {raw['refused_ms']}, of these in the service: {raw['refusing_ms']}"
    notes = [f"seed {seed}; normal: within {NORMAL} of the calm median; {times}"]
    return Report("saturation", SUMMARY, HEADERS, [phase.row() for phase in phases], bars, raw, notes)


async def _measure(url: str, requests: int, seed: int) -> tuple[list[Phase], list[float]]:
    draw = random.Random(seed)
    calm, peak = Phase("calm", FEW_CLIENTS), Phase("peak", PEAK_CLIENTS)
    flood, after = Phase("flood", MANY_CLIENTS), Phase("after it", FEW_CLIENTS)
    share = min(1.0, requests / REQUESTS)
    probes: list[float] = []
    with Progress() as progress:
        task = progress.add_task("saturation", total=4)
        await _phase(url, calm, draw, max(3.0, CALM_S * share))
        progress.advance(task)
        await _phase(url, peak, draw, RAMP_S + max(4.0, PEAK_S * share))
        progress.advance(task)
        probing = asyncio.create_task(_probe(url, probes))
        await _phase(url, flood, draw, requests=requests)
        probing.cancel()
        progress.advance(task)
        await _phase(url, after, draw, RECOVERY_S)
        progress.advance(task)
    return [calm, peak, flood, after], probes


async def _phase(
    url: str, phase: Phase, draw: random.Random, seconds: float = float("inf"), requests: int | None = None
) -> None:
    """Until so much time has passed, or so many replies have come."""
    loop = asyncio.get_running_loop()
    phase.began = loop.time()
    numbers = itertools.count()

    async def client() -> None:
        await asyncio.sleep(draw.uniform(0, RAMP_S / 2))
        async with connected(url) as connection:
            while loop.time() - phase.began < seconds and (requests is None or phase.answers < requests):
                question = {"prompt": f"Question {next(numbers)}?", "response_a": "yes", "response_b": "no"}
                try:
                    reply = await connection.ask(post("/compare", question))
                except Cut:
                    phase.lost += 1
                    return
                phase.statuses[reply.status] += 1
                if reply.status == 200:
                    phase.served.append((loop.time() - phase.began, reply.seconds))
                if reply.status == 503:
                    phase.refused.append(reply.seconds)
                    phase.refusing.append(reply.service_s)
                    phase.without_retry_after += reply.retry_after_s is None
                    await asyncio.sleep((reply.retry_after_s or 1) * draw.uniform(1, 1.5))

    await asyncio.gather(*(client() for _ in range(phase.clients)))
    phase.seconds = loop.time() - phase.began


async def _probe(url: str, seconds: list[float]) -> None:
    """What a kubelet sees, on a connection of its own each time."""
    while True:
        started = asyncio.get_running_loop().time()
        async with connected(url) as connection:
            reply = await connection.ask(get("/livez"))
        seconds.append(asyncio.get_running_loop().time() - started if reply.status == 200 else float("inf"))
        await asyncio.sleep(PROBE_S)


def _until_normal(after: Phase, calm: float) -> float:
    """The end of the first second whose median is normal; infinite if there is none."""
    for end in range(1, int(RECOVERY_S / WINDOW_S) + 1):
        window = [seconds for at, seconds in after.served if (end - 1) * WINDOW_S <= at < end * WINDOW_S]
        if window and median(window) <= NORMAL * calm:
            return end * WINDOW_S
    return float("inf")


def _others(phases: list[Phase]) -> int:
    known = sum(phase.statuses[200] + phase.statuses[503] for phase in phases)
    return sum(phase.answers + phase.lost for phase in phases) - known


def _spread(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = quantiles(seconds, n=100)
    return {name: round(1000 * cuts[at], 1) for name, at in (("p50", 49), ("p90", 89), ("p99", 98))}
