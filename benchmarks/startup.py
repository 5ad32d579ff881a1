"""From `make serve` to the first answer, and the memory of all processes after some work."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.progress import Progress

from benchmarks.figures import Bar, Report
from benchmarks.machine import ROOT
from benchmarks.processes import Server, free_port
from benchmarks.questions import as_items, draw_pairs
from benchmarks.servers import DEADLINE

SUMMARY = "`make serve` to the first answered /compare, and PSS of all processes after a warm-up load."
FRESH_S, LATER_S, MEMORY_GIB = 360.0, 75.0, 3.0
GIVE_UP_S = 1800.0
WARM_UP_PAIRS, WARM_UP_RATIONALES = 512, 16


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--fresh", action="store_true", help="clone to a new directory and time the first start there too"
    )


def run(arguments: Namespace) -> Report:
    seconds: dict[str, float] = {}
    with _checkout(arguments.fresh) as directory, Progress(transient=True) as progress:
        for start in ("fresh clone", "later start") if arguments.fresh else ("later start",):
            step = progress.add_task(start, total=2)
            with _serving(directory) as server:
                seconds[start] = _until_answer(server)
                progress.advance(step)
                if start == "later start":
                    _work(server.url)
                    memory = _memory(server)
                progress.advance(step)
    return _report(seconds, memory)


@contextmanager
def _checkout(fresh: bool) -> Iterator[Path]:
    """This checkout, or a clone of its last commit that is gone afterwards."""
    if not fresh:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="fresh-clone-") as parent:
        clone = Path(parent) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        yield clone


@contextmanager
def _serving(directory: Path) -> Iterator[Server]:
    """``make serve`` without the virtual environment this program may run in."""
    port = free_port()
    environment = {"GRAM_STORE__TYPE": "memory", "VIRTUAL_ENV": "", "PYTHONPATH": ""}
    paths = os.environ["PATH"].split(os.pathsep)
    environment["PATH"] = os.pathsep.join(path for path in paths if not (Path(path).parent / "pyvenv.cfg").exists())
    with Server(["make", "serve", f"PORT={port}"], port, environment, directory=directory) as server:
        yield server


def _until_answer(server: Server) -> float:
    """Seconds from the start of ``make`` to the first verdict."""
    started = time.monotonic()
    server.wait("/readyz", GIVE_UP_S)
    body = {"prompt": "What is 2 + 2?", "response_a": "4", "response_b": "5"}
    httpx.post(f"{server.url}/compare", json=body, timeout=60, trust_env=False).raise_for_status()
    return time.monotonic() - started


def _work(url: str) -> None:
    items = as_items(draw_pairs(WARM_UP_PAIRS, 1))
    with httpx.Client(base_url=url, timeout=600, headers=DEADLINE, trust_env=False) as client:
        client.post("/compare", json={"items": items}).raise_for_status()
        responses = [item["response_a"] for item in items[:16]]
        client.post("/rank", json={"prompt": items[0]["prompt"], "responses": responses}).raise_for_status()
        for item in items[:WARM_UP_RATIONALES]:
            client.post("/rationale", json=item).raise_for_status()


def _memory(server: Server) -> list[tuple[str, float]]:
    """Name and PSS in GiB of every process of the service."""
    found = []
    for process in server.processes():
        try:
            found.append((_name(process), process.memory_full_info().pss / 2**30))
        except psutil.Error:
            continue
    return found


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    words = [word for word in command if not word.startswith(("/", "-"))]
    return " ".join(words[:2])[:40] or process.name()


def _report(seconds: dict[str, float], memory: list[tuple[str, float]]) -> Report:
    total = sum(gib for _, gib in memory)
    bounds = {"fresh clone": FRESH_S, "later start": LATER_S}
    rows = [[f"first answer, {name}", f"{value:.1f} s"] for name, value in seconds.items()]
    rows += [[f"PSS, {name}", f"{gib:.2f} GiB"] for name, gib in memory]
    bars = [Bar(f"seconds to the first answer, {name}", value, "<=", bounds[name]) for name, value in seconds.items()]
    bars.append(Bar("PSS of all processes, GiB", total, "<=", MEMORY_GIB))
    raw: dict[str, Any] = {"seconds": seconds, "pss_gib": memory, "pss_total_gib": total}
    return Report("startup", SUMMARY, ["what", "measured"], rows, bars, raw)
