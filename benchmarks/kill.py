"""What callers see when the engine's processes are killed under load: how soon not ready, how soon errors."""

from __future__ import annotations

import asyncio
import itertools
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from rich.progress import track

from benchmarks.figures import Bar, Report
from benchmarks.processes import Server
from benchmarks.questions import as_items, draw_pairs
from benchmarks.servers import DEADLINE, engine_environment, running_service

SUMMARY = "One process of the engine gets SIGKILL while clients wait for answers."
VICTIMS = ("EngineCore", "Worker")
CLIENTS = 32
LOAD_S, WATCH_S, POLL_S = 3.0, 30.0, 0.05
BOUND_S = 5.0


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--victims", default=",".join(VICTIMS), help="names of processes, each killed in a service of its own"
    )


@dataclass
class Watch:
    """What happened, in seconds after the kill. ``ends`` are the requests that were in flight at that moment."""

    killed: float = 0.0
    not_ready: float = float("inf")
    in_flight: int = 0
    ends: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def last_end(self) -> float:
        """Infinite while one of them has not ended."""
        return max(self.ends, default=0.0) if len(self.ends) == self.in_flight else float("inf")


def run(arguments: Namespace) -> Report:
    watches: dict[str, Watch] = {}
    for victim in track(arguments.victims.split(","), "victims"):
        with running_service(engine_environment(arguments)) as server:
            watches[victim] = asyncio.run(_kill(server, victim))
    return _report(watches)


async def _kill(server: Server, victim: str) -> Watch:
    """Load, then the kill, then watching until readiness is gone and every request in flight has ended."""
    watch = Watch()
    items = as_items(draw_pairs(2000, 1))
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=WATCH_S, headers=DEADLINE, limits=limits, trust_env=False
    ) as client:
        clients = [asyncio.create_task(_client(client, items[i::CLIENTS], watch)) for i in range(CLIENTS)]
        await asyncio.sleep(LOAD_S)
        process = server.find(victim)
        watch.in_flight = sum(not task.done() for task in clients)
        watch.killed = time.monotonic()
        process.kill()
        await _until_not_ready(client, watch)
        await asyncio.wait(clients, timeout=WATCH_S)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return watch


async def _client(client: httpx.AsyncClient, items: Sequence[dict[str, str]], watch: Watch) -> None:
    """Asks one pair after another until the first request that outlives the kill."""
    for item in itertools.cycle(items):
        try:
            outcome = str((await client.post("/compare", json=item)).status_code)
        except httpx.TransportError as error:
            outcome = type(error).__name__
        if watch.killed:
            watch.ends.append(time.monotonic() - watch.killed)
            watch.outcomes[outcome] += 1
            return
        if outcome != "200":
            raise RuntimeError(f"A request failed before the kill: {outcome}")


async def _until_not_ready(client: httpx.AsyncClient, watch: Watch) -> None:
    while time.monotonic() - watch.killed < WATCH_S:
        try:
            ready = (await client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            ready = False
        if not ready:
            watch.not_ready = time.monotonic() - watch.killed
            return
        await asyncio.sleep(POLL_S)


def _report(watches: dict[str, Watch]) -> Report:
    rows = [
        [
            victim,
            f"{watch.not_ready:.2f} s",
            str(watch.in_flight),
            f"{watch.last_end:.2f} s",
            ", ".join(f"{count} x {outcome}" for outcome, count in sorted(watch.outcomes.items())),
        ]
        for victim, watch in watches.items()
    ]
    bars = [
        bar
        for victim, watch in watches.items()
        for bar in (
            Bar(f"{victim} killed: seconds until not ready", watch.not_ready, "<=", BOUND_S),
            Bar(f"{victim} killed: seconds until the last request in flight ended", watch.last_end, "<=", BOUND_S),
        )
    ]
    raw = {
        victim: {
            "not_ready_s": watch.not_ready,
            "in_flight": watch.in_flight,
            "ends_s": watch.ends,
            "outcomes": dict(watch.outcomes),
        }
        for victim, watch in watches.items()
    }
    headers = ["killed", "/readyz not 200 after", "in flight", "last one ended after", "how they ended"]
    return Report("kill", SUMMARY, headers, rows, bars, raw)
