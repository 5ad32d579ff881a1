"""What callers see when the engine fails, in each of eight ways, and whether it comes back; and what a kill leaves."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.progress import track

from benchmarks.counts import add_counts, counted
from benchmarks.figures import Bar, Report
from benchmarks.machine import ROOT, describe_machine
from benchmarks.questions import as_items, draw_pairs
from benchmarks.servers import running_service
from benchmarks.strikes import KINDS, Target
from service.settings import demo_model

SUMMARY = (
    "vLLM with the demo judge, recovery by restarting it, clients that ask without pause. Requests of before are those "
    "in flight when the fault struck; refusals are later ones that got no answer."
)
STATE = ROOT / ".faults.json"
SERVICE = "service"
"""The ninth kind: SIGKILL to the service itself, and how long its engine's processes live on."""
CLIENTS = 8
KNOWN = 64
WATCH_S = 300.0
ORPHANS_S = 10.0
POLL_S = 0.05
TOLERANCE = 1e-3
"""bfloat16 on a CPU repeats within 1e-6; a number that means nothing does not."""
HEADERS = (
    *("fault", "times", "not ready after, s", "last of before, s", "longest refusal, s", "ready again after, s"),
    "how requests ended",
)


@dataclass
class Seen:
    """One strike, in seconds after it. ``wrong``: answers that are no known number."""

    kind: str
    number: int
    commit: str
    not_ready_s: float = float("inf")
    before_s: float = 0.0
    refusal_s: float = 0.0
    ready_s: float = float("inf")
    orphans_s: float = 0.0
    wrong: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--kind", action="append", choices=[*KINDS, SERVICE], help="this one (may be repeated)")
    parser.add_argument("--times", type=int, default=10, help="strikes of each kind (default 10)")
    add_counts(parser)
    parser.add_argument("--again", action="store_true", help="forget what was done at this commit")


def run(arguments: Namespace) -> Report:
    commit = str(describe_machine()["commit"])
    wanted, times = arguments.kind or [*KINDS, SERVICE], counted(arguments, arguments.times)
    kept = [] if arguments.again or commit.endswith("with changes") else _kept(commit)
    for kind in wanted:
        done = {seen.number for seen in kept if seen.kind == kind}
        numbers = [number for number in range(times) if number not in done]
        for seen in _strike_all(arguments, kind, numbers, commit):
            kept.append(seen)
            STATE.write_text(json.dumps([asdict(one) for one in kept], indent=1))
    return _report([seen for seen in kept if seen.kind in wanted and seen.number < times])


def _kept(commit: str) -> list[Seen]:
    """Strikes of this commit that an earlier run, perhaps an interrupted one, has seen."""
    entries = json.loads(STATE.read_text()) if STATE.exists() else []
    return [Seen(**entry) for entry in entries if entry["commit"] == commit]


def _strike_all(arguments: Namespace, kind: str, numbers: Sequence[int], commit: str) -> Iterator[Seen]:
    if kind == SERVICE:
        for number in track(numbers, kind):
            yield _kill_service(arguments, number, commit)
    elif numbers:
        with _target(arguments) as target:
            for number in track(numbers, kind):
                yield asyncio.run(_strike(target, Seen(kind, number, commit)))


@contextmanager
def _target(arguments: Namespace) -> Iterator[Target]:
    """A service on a copy of the checkpoint, restarted as often as it takes."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        model, file = folder / "model", folder / "fault"
        shutil.copytree(arguments.model or demo_model(), model)
        extra = {"worker_extension_cls": "benchmarks.faulty_worker.Extension"}
        environment = {
            "GRAM_ENGINE__MODEL": str(model),
            "GRAM_ENGINE__EXTRA": json.dumps(extra),
            "GRAM_STORE__TYPE": "memory",
            "GRAM_CACHE__ENTRIES": "0",
            "GRAM_RECOVERY__ON_FAILURE": "restart",
            "GRAM_RECOVERY__MAX_RESTARTS": "1000",
            "GRAM_RECOVERY__MAX_BACKOFF_S": "5",
            "BENCHMARK_FAULT_FILE": str(file),
        }
        with running_service(environment) as server:
            yield Target(server, model, file)


class _Load:
    """Clients that ask known questions without pause, and what became of each request."""

    def __init__(self, client: httpx.AsyncClient, seen: Seen) -> None:
        self._client = client
        self._seen = seen
        self._known: list[float] = []
        self._items = as_items(draw_pairs(KNOWN, 7))
        self._tasks: list[asyncio.Task[None]] = []
        self._outcomes: Counter[str] = Counter()
        self.struck = float("inf")

    async def start(self) -> None:
        for item in self._items:
            reply = await self._client.post("/compare", json=item)
            reply.raise_for_status()
            self._known.append(float(reply.json()["p_first"]))
        self._tasks = [asyncio.create_task(self._ask(i)) for i in range(CLIENTS)]
        await asyncio.sleep(1)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._seen.outcomes = dict(self._outcomes)

    async def _ask(self, first: int) -> None:
        for index in itertools.islice(itertools.cycle(range(KNOWN)), first, None):
            started = time.monotonic()
            outcome = await self._one(index)
            ended = time.monotonic()
            if ended < self.struck:
                continue
            self._outcomes[outcome] += 1
            if started < self.struck:
                self._seen.before_s = max(self._seen.before_s, ended - self.struck)
            elif outcome != "200":
                self._seen.refusal_s = max(self._seen.refusal_s, ended - started)
            await asyncio.sleep(0.0 if outcome == "200" else 0.1)

    async def _one(self, index: int) -> str:
        try:
            reply = await self._client.post("/compare", json=self._items[index])
        except httpx.TransportError as error:
            return type(error).__name__
        if reply.status_code == 200:
            self._seen.wrong += not abs(reply.json()["p_first"] - self._known[index]) <= TOLERANCE  # NaN is wrong
            return "200"
        return f"{reply.status_code} {reply.json()['error']['code']}"


async def _strike(target: Target, seen: Seen) -> Seen:
    async with httpx.AsyncClient(
        base_url=target.server.url, timeout=WATCH_S, trust_env=False, headers={"X-Deadline-Ms": "240000"}
    ) as client:
        load = _Load(client, seen)
        await load.start()
        load.struck = time.monotonic()
        strike = asyncio.create_task(KINDS[seen.kind].strike(target))
        seen.not_ready_s = await _until(client, ready=False, since=load.struck)
        await strike
        seen.ready_s = await _until(client, ready=True, since=load.struck)
        await asyncio.sleep(2)
        await load.stop()
    return seen


async def _until(client: httpx.AsyncClient, *, ready: bool, since: float) -> float:
    """Seconds from then until /readyz says so; infinite when it does not."""
    while (passed := time.monotonic() - since) < WATCH_S:
        try:
            found = (await client.get("/readyz", timeout=5)).status_code == 200
        except httpx.TransportError:
            found = False
        if found == ready:
            return passed
        await asyncio.sleep(POLL_S)
    return float("inf")


def _kill_service(arguments: Namespace, number: int, commit: str) -> Seen:
    """SIGKILL to the service's own process: nobody is left to clean up."""
    seen = Seen(SERVICE, number, commit, not_ready_s=0.0, ready_s=0.0)
    with _target(arguments) as target:
        main, *others = target.server.processes()
        httpx.post(f"{target.server.url}/compare", json=as_items(draw_pairs(1, 7))[0], timeout=60).raise_for_status()
        killed = time.monotonic()
        main.kill()
        _, alive = psutil.wait_procs(others, timeout=3 * ORPHANS_S)
        seen.orphans_s = float("inf") if alive else time.monotonic() - killed
    return seen


def _report(found: Sequence[Seen]) -> Report:
    rows, bars = [], []
    for kind in [*KINDS, SERVICE]:
        mine = [seen for seen in found if seen.kind == kind]
        if not mine:
            continue
        worst = {name: max(getattr(seen, name) for seen in mine) for name in ("not_ready_s", "before_s", "refusal_s")}
        back = max(seen.ready_s for seen in mine)
        if kind == SERVICE:
            orphans = max(seen.orphans_s for seen in mine)
            bars.append(Bar("service killed: seconds until its engine's processes are gone", orphans, "<=", ORPHANS_S))
            rows.append(
                ["SIGKILL to the service", str(len(mine)), "", "", "", "", f"orphans gone after {orphans:.2f} s"]
            )
            continue
        outcomes = sum((Counter(seen.outcomes) for seen in mine), Counter())
        figures = [f"{worst[name]:.2f}" for name in ("not_ready_s", "before_s", "refusal_s")]
        ended = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(outcomes.items()))
        rows.append([KINDS[kind].what, str(len(mine)), *figures, f"{back:.1f}", ended])
        bars += _bars(kind, mine, worst)
    raw: dict[str, Any] = {"examples": len(found), "strikes": [asdict(seen) for seen in found]}
    return Report("faults", SUMMARY, HEADERS, rows, bars, raw)


def _bars(kind: str, mine: Sequence[Seen], worst: dict[str, float]) -> list[Bar]:
    limits = KINDS[kind]
    return [
        Bar(f"{kind}: seconds until not ready", worst["not_ready_s"], "<=", limits.not_ready_s),
        Bar(f"{kind}: seconds until the last request of before ended", worst["before_s"], "<=", limits.error_s),
        Bar(f"{kind}: seconds that a later refusal took", worst["refusal_s"], "<=", limits.error_s),
        Bar(f"{kind}: answers that are no known number", float(sum(seen.wrong for seen in mine)), "<=", 0),
        Bar(f"{kind}: strikes without recovery", float(sum(seen.ready_s == float("inf") for seen in mine)), "<=", 0),
    ]
