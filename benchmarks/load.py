"""Mixed requests by many clients, every reply compared with the one alone; and what the HTTP layer costs."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

from rich.progress import Progress

from benchmarks.counts import add_counts, counted, seed_of
from benchmarks.figures import Bar, Report, median_ratio
from benchmarks.mixed import Asked, Tally, alone, draw, together
from benchmarks.processes import Server, free_port
from benchmarks.servers import running_service

SUMMARY = (
    "Requests of every kind in turn, each from a pool that was asked before, one after the other: a reply under load "
    "must be the same bytes, but for how many tokens were cached. HTTP layer: the service with its answers ready, "
    "against a bare FastAPI echo of the same bodies under uvicorn as it comes, in turns."
)
CLIENTS = {"fake": 64, "vllm": 32}
REQUESTS = {"fake": 200_000, "vllm": 20_000}
POOL = {"fake": 1000, "vllm": 1000}
WEIGHTS = {"fake": (40, 10, 10, 20, 15, 5), "vllm": (55, 5, 5, 20, 13, 2)}
"""Of the kinds of requests; judgments that are written take a real engine a hundred times as long."""
LAYER_WEIGHTS = (50, 10, 10, 20, 10, 0)
ENVIRONMENT = {
    "fake": {
        "GRAM_ENGINE__TYPE": "fake",
        "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}, {"name": "gram_r2", "family": "gram_r2"}]',
    },
    "vllm": {"GRAM_ENGINE__DTYPE": "float32"},  # in which answers are equal to the last bit
}
COMMON = {"GRAM_STORE__TYPE": "memory", "GRAM_CACHE__ENTRIES": "0", "GRAM_LIMITS__MAX_DEADLINE_MS": "600000"}
LEAST_RATIO = 0.6
ROUNDS, ROUND_REQUESTS = 40, 700
"""Many short ones in turns: what else a shared machine does falls on both sides. In seven rounds of 2,400 requests the
same two programs came to ratios from 0.55 to 0.69 by the clock, in these to 0.59 to 0.62."""
LENGTHS = {"short": 0, "long": 1000}
"""Least characters of a response in the bodies of the HTTP layer's measurement: the demo family's own sentences, and
about what public preference data has (medians: RewardBench 370, UltraFeedback 877, RM-Bench 1287)."""
HEADERS = ("what", "requests", "seconds", "a second", "p50 ms", "p99 ms", "statuses")


def add_arguments(parser: ArgumentParser) -> None:
    add_counts(parser)
    parser.add_argument("--engine", choices=list(REQUESTS), default="fake")
    parser.add_argument("--only", choices=["mixed", "layer"], help="one of the two (default: both; vllm has the first)")


def run(arguments: Namespace) -> Report:
    seed = seed_of(arguments)
    rows: list[list[str]] = []
    bars: list[Bar] = []
    raw: dict[str, Any] = {"seed": seed, "examples": 0}
    if arguments.only != "layer":
        tally, seconds = _mixed(arguments, seed)
        rows.append(_row(f"mixed, {arguments.engine} engine", tally, seconds))
        bars += _mixed_bars(arguments, tally)
        raw |= {"examples": tally.answered, "seconds": seconds}
    if arguments.only == "layer" or (arguments.only is None and arguments.engine == "fake"):
        for layer in _layers(arguments, seed):
            rows += layer.rows()
            bars += layer.bars()
            raw[layer.name] = {"wall": layer.wall, "processor": layer.processor}
            raw["examples"] += sum(tally.answered for tally in layer.tallies.values())
    return Report("load", SUMMARY, HEADERS, rows, bars, raw, [f"seed {seed}"])


def _mixed(arguments: Namespace, seed: int) -> tuple[Tally, float]:
    engine = arguments.engine
    count = counted(arguments, REQUESTS[engine])
    requests = draw(min(POOL[engine], max(50, count // 10)), seed, WEIGHTS[engine])

    async def measure(url: str) -> tuple[Tally, float]:
        with Progress() as progress:
            expected = await alone(url, requests, progress)
            started = asyncio.get_running_loop().time()
            tally = await together(url, requests, expected, count, CLIENTS[engine], progress)
            return tally, asyncio.get_running_loop().time() - started

    with running_service(COMMON | ENVIRONMENT[engine]) as server:
        return asyncio.run(measure(server.url))


def _mixed_bars(arguments: Namespace, tally: Tally) -> list[Bar]:
    asked = counted(arguments, REQUESTS[arguments.engine])
    return [
        Bar("requests answered", tally.answered, ">=", asked),
        Bar("requests lost without a reply", tally.lost, "<=", 0),
        Bar("replies with a status of 500 or more", tally.server_errors, "<=", 0),
        Bar("other replies than 200", tally.others, "<=", 0),
        Bar("replies that are not the one alone", tally.wrong, "<=", 0),
        Bar("of those, another request's", tally.mispaired, "<=", 0),
    ]


class _Layer:
    """Rounds by turns: seconds on the wall, and of the server's processor, for as many requests."""

    def __init__(self, name: str, requests: Sequence[Asked], count: int) -> None:
        self.name = name
        self.requests, self.count = requests, count
        self.wall: dict[str, list[float]] = {"service": [], "echo": []}
        self.processor: dict[str, list[float]] = {"service": [], "echo": []}
        self.tallies = {"service": Tally(), "echo": Tally()}

    def turn(self, name: str, server: Server, *, counts: bool) -> None:
        """One server's round."""
        tally, wall, processor = _round(server, self.requests, self.count)
        if counts:
            self.wall[name].append(wall)
            self.processor[name].append(processor)
            self.tallies[name] = _sum(self.tallies[name], tally)

    def rows(self) -> list[list[str]]:
        found = []
        for name, tally in self.tallies.items():
            spent = 1e6 * median(self.processor[name]) / self.count
            what = f"HTTP layer, {self.name}: {name}, {spent:.0f} us of processor each"
            found.append(_row(what, tally, sum(self.wall[name])))
        return found

    def bars(self) -> list[Bar]:
        wrong = sum(tally.answered - tally.statuses[200] + tally.lost for tally in self.tallies.values())
        mean = sum(len(asked.request) for asked in self.requests) / len(self.requests)
        what = f"HTTP layer, {self.name} texts ({mean:,.0f} bytes a request)"
        by_processor = median_ratio(self.processor["echo"], self.processor["service"])
        by_clock = median_ratio(self.wall["echo"], self.wall["service"])
        return [
            Bar(f"{what}: replies that were no 200", wrong, "<=", 0),
            Bar(f"{what}: requests a processor second, of the echo's", by_processor, ">=", LEAST_RATIO),
            Bar(f"{what}: requests a second, of the echo's", by_clock, ">=", LEAST_RATIO),
        ]


def _layers(arguments: Namespace, seed: int) -> list[_Layer]:
    count = counted(arguments, ROUND_REQUESTS, at_least=200)
    layers = [_Layer(name, draw(200, seed, LAYER_WEIGHTS, chars), count) for name, chars in LENGTHS.items()]
    with _layer_server("service") as service, _layer_server("echo") as echo, Progress() as progress:
        servers = [("service", service), ("echo", echo)]
        rounds = progress.add_task("rounds", total=len(layers) * (ROUNDS + 1))
        for layer in layers:
            for number in range(ROUNDS + 1):  # the first one warms both up
                for name, server in servers if number % 2 else reversed(servers):
                    layer.turn(name, server, counts=number > 0)
                progress.advance(rounds)
    return layers


def _round(server: Server, requests: Sequence[Asked], count: int) -> tuple[Tally, float, float]:
    """Nothing is compared here: an echo is right whatever it says, and the bytes are compared elsewhere."""
    before = server.cpu_seconds()
    expected = [b""] * len(requests)

    async def measure() -> tuple[Tally, float]:
        started = asyncio.get_running_loop().time()
        with Progress(disable=True) as quiet:
            tally = await together(server.url, requests, expected, count, CLIENTS["fake"], quiet)
        return tally, asyncio.get_running_loop().time() - started

    tally, wall = asyncio.run(measure())
    return tally, wall, server.cpu_seconds() - before


@contextmanager
def _layer_server(which: str) -> Iterator[Server]:
    port = free_port()
    with Server([sys.executable, "-m", "benchmarks.http_layer", which, str(port)], port) as server:
        server.wait("/readyz", 120)
        yield server


def _sum(left: Tally, right: Tally) -> Tally:
    return Tally(
        left.statuses + right.statuses,
        left.wrong + right.wrong,
        left.mispaired + right.mispaired,
        left.lost + right.lost,
        left.seconds + right.seconds,
    )


def _row(what: str, tally: Tally, seconds: float) -> list[str]:
    cuts = quantiles(tally.seconds, n=100) if len(tally.seconds) > 1 else [float("nan")] * 99
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(tally.statuses.items()))
    rate = f"{tally.answered / seconds:,.0f}" if seconds else ""
    return [
        *(what, f"{tally.answered:,}", f"{seconds:.1f}", rate),
        *(f"{1000 * cuts[49]:.1f}", f"{1000 * cuts[98]:.1f}", statuses),
    ]
