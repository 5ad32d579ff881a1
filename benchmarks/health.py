"""What score health costs: samples taken in each request, figures when somebody asks, memory for each queue."""

from __future__ import annotations

import random
import time
import tracemalloc
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from statistics import median
from typing import Any

import httpx
from rich.progress import track

from benchmarks.figures import Bar, Report
from benchmarks.processes import Server
from benchmarks.servers import DEADLINE, running_service
from service.score_health import Sample, drift, judge_health, pair_samples
from service.score_monitor import ScoreMonitor
from service.types import Comparison, Flag, JudgeVersion, Prompt, Response, Verdict

SUMMARY = (
    "A request of 64 comparisons to a service on the fake engine, and beside it what that request leaves for score "
    "health: its samples and rows, taken in this process. Figures and drift are of full windows (1000). Times are "
    "processor time, which other programs on the machine move little."
)
ITEMS, WINDOW, MOST_SHARE = 64, 1000, 0.02
SERVICE = {
    "GRAM_ENGINE__TYPE": "fake",
    "GRAM_CACHE__ENTRIES": "0",
    "GRAM_STORE__TYPE": "memory",
    "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}]',
}
JUDGE = JudgeVersion("gram", "weights", "template")
HEADERS = ("what", "measured", "unit")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=200, help="requests, and repetitions of the rest (default 200)")


def run(arguments: Namespace) -> Report:
    with running_service(SERVICE) as server:
        request_ms = _request_ms(server, arguments.requests)
    made, monitor = _judged(), ScoreMonitor(WINDOW, 1)

    def one_request() -> None:
        comparisons, verdicts = made
        rows = [tuple({flag.code for flag in verdict.flags}) for verdict in verdicts]
        monitor.saw("run", JUDGE, pair_samples(comparisons, verdicts), rows, "reference")

    sampling_ms = _median_ms(one_request, arguments.requests)
    samples = pair_samples(*made) * (1 + WINDOW // ITEMS)
    figures_ms = _median_ms(lambda: judge_health(samples[:WINDOW], [()] * WINDOW), arguments.requests)
    draw = random.Random(1)
    windows = [[draw.random() for _ in range(WINDOW)] for _ in range(2)]
    drift_ms = _median_ms(lambda: drift(*windows), arguments.requests)
    kib = _kib_of_a_full_ring()
    rows = [
        ["request of 64 comparisons", f"{request_ms:.2f}", "ms"],
        ["its samples and rows", f"{sampling_ms:.3f}", "ms"],
        ["figures of a full ring", f"{figures_ms:.2f}", "ms"],
        ["drift of a full window", f"{drift_ms:.2f}", "ms"],
        ["memory of a full ring", f"{kib:.0f}", "KiB"],
    ]
    bar = Bar("share of a request that taking its samples costs", sampling_ms / request_ms, "<=", MOST_SHARE)
    return Report("health", SUMMARY, HEADERS, rows, [bar], {"rows": rows})


def _request_ms(server: Server, requests: int) -> float:
    """Processor time of the service for one request."""
    items = [{"prompt": f"Question {i}", "response": f"answer {i}", "reference": f"other {i}"} for i in range(ITEMS)]
    body: dict[str, Any] = {"items": items, "normalize": {"queue": "run"}}
    with httpx.Client(base_url=server.url, timeout=60, headers=DEADLINE, trust_env=False) as client:
        for number in track(range(-10, requests), "requests"):
            if number == 0:
                started = _cpu_s(server)
            client.post("/score", json=body).raise_for_status()
    return 1000 * (_cpu_s(server) - started) / requests


def _cpu_s(server: Server) -> float:
    """Seconds of processor time that the service has used."""
    return float(sum(sum(process.cpu_times()[:2]) for process in server.processes()))


def _judged() -> tuple[list[Comparison], list[Verdict]]:
    """Pairs as the request has them, and verdicts as a label judge gives them; every tenth with a flag."""
    draw = random.Random(2)
    pairs = [Comparison(Prompt.from_text("Q"), Response(f"answer {i}"), Response(f"other {i}")) for i in range(ITEMS)]
    flags = (Flag("bidi", 1, "a"),)
    return pairs, [
        Verdict(0.6, draw.gauss(0, 1), draw.random(), draw.random(), True, 0.97, flags=flags if i % 10 == 0 else ())
        for i in range(ITEMS)
    ]


def _median_ms(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(1000 * (time.process_time() - started))
    return median(found)


def _kib_of_a_full_ring() -> float:
    draw = random.Random(3)
    monitor = ScoreMonitor(WINDOW, 1)
    tracemalloc.start()
    samples = (Sample(draw.random(), False, draw.random(), draw.random(), draw.random()) for _ in range(WINDOW))
    monitor.saw("run", JUDGE, samples, [()] * WINDOW)
    kib = tracemalloc.get_traced_memory()[0] / 1024
    tracemalloc.stop()
    return kib
