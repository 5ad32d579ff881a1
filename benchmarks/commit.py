"""What a queue commit adds to a request of 64 scores, through the whole service over HTTP (fake engine)."""

from __future__ import annotations

import json
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from rich.progress import track

from benchmarks.figures import Bar, Report
from benchmarks.servers import DEADLINE, running_redis, running_service

SUMMARY = (
    "The same request of 64 items with and without `normalize`, by turns, to one service on the fake engine; the "
    "difference of each pair of requests. The window is full (1000 scores)."
)
ITEMS, WINDOW, WARM_UP = 64, 1000, 20
SERVICE = {"GRAM_ENGINE__TYPE": "fake", "GRAM_JUDGES": '[{"name": "scalar", "family": "scalar"}]'}
"""A scalar judge makes a score of one short prompt, so that little else moves the difference."""
BOUNDS_MS = {"sqlite": 1.0, "redis": 2.0}
HEADERS = ("store", "without, ms", "with, ms", "added: median, ms", "quartiles, ms", "pairs")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=400, help="pairs of requests per store (default 400)")
    parser.add_argument("--stores", default="memory,sqlite,redis", help="which stores (default: all three)")
    parser.add_argument("--redis-url", help="a Redis server on loopback (default: one is started)")


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of each request, pair by pair."""

    without: list[float]
    with_commit: list[float]

    @property
    def added(self) -> list[float]:
        return [b - a for a, b in zip(self.without, self.with_commit, strict=True)]


def run(arguments: Namespace) -> Report:
    timings: dict[str, Timing] = {}
    for store in arguments.stores.split(","):
        with _settings(store, arguments.redis_url) as environment:
            if environment is None:
                raise SystemExit(
                    "There is no Redis server here; install redis-server, or give --redis-url or --stores."
                )
            with running_service(SERVICE | {"GRAM_STORE__TYPE": store} | environment) as server:
                timings[store] = _measure(server.url, store, arguments.pairs)
    return _report(timings)


@contextmanager
def _settings(store: str, redis_url: str | None) -> Iterator[dict[str, str] | None]:
    """The environment of a service with this store, new and empty; None where it cannot be had here."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory(prefix="rewards-") as folder:
            yield {"GRAM_STORE__PATH": str(Path(folder) / "rewards.sqlite")}
    elif store == "redis":
        with nullcontext(redis_url) if redis_url else running_redis() as url:
            yield None if url is None else {"GRAM_STORE__URL": url}
    else:
        yield {}


def _measure(url: str, store: str, pairs: int) -> Timing:
    items = [{"prompt": f"Question {i}", "response": f"answer {i}"} for i in range(ITEMS)]
    plain: dict[str, Any] = {"items": items}
    bodies = [plain, plain | {"normalize": {"queue": f"commit-{time.time_ns()}", "window": WINDOW}}]
    contents = [json.dumps(body).encode() for body in bodies]
    headers = {**DEADLINE, "Content-Type": "application/json"}
    times: tuple[list[float], list[float]] = ([], [])
    with httpx.Client(base_url=url, timeout=60, headers=headers, trust_env=False) as client:
        for number in track(range(-WARM_UP, pairs), store):
            for which in (0, 1) if number % 2 else (1, 0):  # neither is always the second
                started = time.perf_counter()
                reply = client.post("/score", content=contents[which])
                if number >= 0:
                    times[which].append(1000 * (time.perf_counter() - started))
                reply.raise_for_status()
        _check(reply.json() if which else client.post("/score", content=contents[1]).json())
    return Timing(*times)


def _check(reply: dict[str, Any]) -> None:
    """A request that did not commit would measure nothing."""
    if reply["queue"]["count"] != WINDOW or any(row["reward"] is None for row in reply["results"]):
        raise RuntimeError("The measured requests did not fill their queue.")


def _report(timings: dict[str, Timing]) -> Report:
    rows = []
    for store, timing in timings.items():
        low, _, high = quantiles(timing.added, n=4)
        middle = median(timing.added)
        figures = (median(timing.without), median(timing.with_commit), middle)
        rows.append([store, *(f"{x:.2f}" for x in figures), f"{low:.2f} .. {high:.2f}", str(len(timing.added))])
    bars = [
        Bar(f"{store}: median ms a commit adds to a request of {ITEMS} scores", median(timings[store].added), "<=", ms)
        for store, ms in BOUNDS_MS.items()
        if store in timings
    ]
    raw = {
        store: {
            name: [round(ms, 3) for ms in quantiles(times, n=10)]
            for name, times in (("without_ms", t.without), ("with_ms", t.with_commit), ("added_ms", t.added))
        }
        for store, t in timings.items()
    }
    return Report("commit", SUMMARY, HEADERS, rows, bars, raw)
