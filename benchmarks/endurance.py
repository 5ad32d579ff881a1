"""A mixed load on the fake engine with a random fault every minute, of the engine or of the network between."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.progress import Progress

from benchmarks.counts import add_counts, counted, seed_of
from benchmarks.fault_proxy import CLEAR, WEATHERS, FaultProxy
from benchmarks.figures import Bar, Report
from benchmarks.processes import Server
from benchmarks.servers import running_service
from gram_client import AsyncClient, Normalize, Referenced
from gram_client.errors import ScoringError

SUMMARY = (
    "Clients ask questions whose answers are known, straight and through a proxy, while faults strike one after the "
    "other: the engine hangs, dies, answers NaN or fails, or the network delays, cuts, drips or swallows. Every answer "
    "is compared."
)
DEADLINE_S = 5.0
LATE_S = 1.0
"""A client may be this late: on a busy machine its own timer is."""
CLIENTS = 12
QUESTIONS = 48
QUIET_S = 6.0
"""Without a fault at either end: answers are learnt at the beginning, and must all come again at the end."""
ENGINE_FAULTS: dict[str, dict[str, Any]] = {
    "a hang of 8 s": {"kind": "hang", "for_s": 8.0},
    "a hang for good": {"kind": "hang"},
    "death": {"kind": "die"},
    "NaN": {"kind": "nan"},
    "aborts for 3 s": {"kind": "abort", "for_s": 3.0},
    "errors for 3 s": {"kind": "error", "for_s": 3.0},
}
LASTS_S = 0.4
"""How much of its interval a fault of the network lasts."""
MOST_GROWTH_MIB, MOST_FDS, MOST_THREADS = 20.0, 16.0, 8.0
HEADERS = ("fault", "times", "requests meanwhile", "answered", "refused or failed", "longest s")


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault: seconds after the load begins, and what it is."""

    at_s: float
    name: str


@dataclass(slots=True)
class Seen:
    """One call: when it began (seconds of the load), how long it took, how it ended."""

    at_s: float
    seconds: float
    outcome: str


@dataclass(slots=True)
class Body:
    """The service's process at one moment."""

    rss_mib: float
    fds: int
    threads: int


@dataclass
class Run:
    """What is noted. ``keys``: idempotency keys sent, and those that were answered."""

    began: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    acked: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    committed: int = 0
    struck: int = 0

    def now(self) -> float:
        return time.monotonic() - self.began


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the load (default 30)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds from fault to fault (default 60)")
    add_counts(parser)


def run(arguments: Namespace) -> Report:
    seed = seed_of(arguments)
    seconds = counted(arguments, round(60 * arguments.minutes), at_least=60)
    plan = plan_faults(seconds, arguments.every, seed)
    with (
        tempfile.TemporaryDirectory(prefix="endurance-") as folder,
        running_service(_environment(plan, Path(folder))) as server,
    ):
        found = asyncio.run(_load(server, plan, seconds, arguments.every, seed))
    return _report(found, plan, arguments.every, seconds, seed)


def plan_faults(seconds: float, every_s: float, seed: int) -> list[Planned]:
    """One in each interval, at a random moment of its first half, all kinds in turn before any comes again."""
    draw, plan, deck = random.Random(seed), list[Planned](), list[str]()
    for number in range(int((seconds - 2 * QUIET_S) / every_s)):
        if not deck:
            deck = [*ENGINE_FAULTS, *WEATHERS]
            draw.shuffle(deck)
        plan.append(Planned(QUIET_S + every_s * (number + draw.uniform(0, 0.5)), deck.pop()))
    return plan


def _environment(plan: Sequence[Planned], folder: Path) -> dict[str, str]:
    """A watchdog quick enough for a fault a minute; faults of the engine are its own plan, from its start."""
    faults = [ENGINE_FAULTS[fault.name] | {"after_s": fault.at_s} for fault in plan if fault.name in ENGINE_FAULTS]
    return {
        "GRAM_ENGINE__TYPE": "fake",
        "GRAM_ENGINE__DELAY_S": "0.01",
        "GRAM_ENGINE__FAULTS": json.dumps(faults),
        "GRAM_RECOVERY__MAX_RESTARTS": "1000",
        "GRAM_LIMITS__CANARY_S": "1",
        "GRAM_LIMITS__STALL_S": "4",
        "GRAM_LIMITS__FATAL_STALL_S": "10",
        "GRAM_STORE__PATH": str(folder / "rewards.sqlite"),
        "GRAM_JUDGES": '[{"name": "gram", "family": "gram"}]',
    }


async def _load(server: Server, plan: Sequence[Planned], seconds: float, every_s: float, seed: int) -> Run:
    run = Run()
    port = int(server.url.rpartition(":")[2])
    async with FaultProxy(port, seed) as proxy, AsyncClient(server.url) as straight:
        known = [(await straight.compare(f"Question {i}", "yes", "no")).p_first for i in range(QUESTIONS)]
        run.began = time.monotonic()
        async with AsyncClient(proxy.url, timeout_s=DEADLINE_S) as through:
            ways = (straight, through)
            work = [_client(number, ways[number % 2], known, run, seconds, seed) for number in range(CLIENTS)]
            watching = asyncio.create_task(_watch(psutil.Process(server.processes()[0].pid), run))
            storms = asyncio.create_task(_storms(proxy, plan, run, LASTS_S * every_s))
            await asyncio.gather(*work)
            for task in (watching, storms):
                task.cancel()
            await asyncio.gather(watching, storms, return_exceptions=True)
        run.struck = proxy.struck
        queues = await straight.queues()
        run.committed = sum(queue.seq_last for queue in queues if queue.name == "endurance")
    return run


async def _client(number: int, judge: AsyncClient, known: Sequence[float], run: Run, seconds: float, seed: int) -> None:
    """One question after another: a comparison, a ranking, or a reward that must count once."""
    draw = random.Random(f"{seed} {number}")
    while run.now() < seconds:
        started, question = run.now(), draw.randrange(QUESTIONS)
        try:
            outcome = await asyncio.wait_for(_ask(judge, draw, question, known, run), 4 * DEADLINE_S)
        except ScoringError as error:
            outcome = error.code or type(error).__name__
        except TimeoutError:
            outcome = "stuck"
        run.seen.append(Seen(started, run.now() - started, outcome))
        refused = outcome not in ("answered", "wrong")
        await asyncio.sleep(0.2 if refused else 0.02)


async def _ask(judge: AsyncClient, draw: random.Random, question: int, known: Sequence[float], run: Run) -> str:
    prompt, kind = f"Question {question}", draw.randrange(3)
    if kind == 0:
        got = (await judge.compare(prompt, "yes", "no", timeout_s=DEADLINE_S)).p_first
    elif kind == 1:
        ranking = await judge.rank(prompt, ["yes", "no"], method="all_pairs", timeout_s=DEADLINE_S)
        got = ranking.scores[0]
    else:
        got = await _reward(judge, draw, prompt, run)
    if got is None:
        return "failed item"
    if got != known[question]:
        run.wrong.append(f"{prompt}: {got} instead of {known[question]}")
        return "wrong"
    return "answered"


async def _reward(judge: AsyncClient, draw: random.Random, prompt: str, run: Run) -> float | None:
    key = f"key-{draw.getrandbits(64):x}"
    run.sent.add(key)
    scores = await judge.score_references(
        [Referenced(prompt, "yes", "no")],
        normalize=Normalize(queue="endurance"),
        idempotency_key=key,
        timeout_s=DEADLINE_S,
    )
    if scores.scores[0] is not None:
        run.acked.add(key)
    return scores.scores[0]


async def _watch(process: psutil.Process, run: Run) -> None:
    while True:
        with process.oneshot():
            rss = process.memory_info().rss / 2**20
            run.bodies.append(Body(rss, process.num_fds(), process.num_threads()))
        await asyncio.sleep(2)


async def _storms(proxy: FaultProxy, plan: Sequence[Planned], run: Run, lasts_s: float) -> None:
    """Faults of the network at their times, and a bar for whoever waits."""
    with Progress(transient=True) as progress:
        task = progress.add_task("faults", total=len(plan))
        for fault in plan:
            await asyncio.sleep(max(0.0, fault.at_s - run.now()))
            progress.update(task, description=fault.name, advance=1)
            if fault.name in WEATHERS:
                proxy.weather = WEATHERS[fault.name]
                await asyncio.sleep(lasts_s)
                proxy.weather = CLEAR


def _report(run: Run, plan: Sequence[Planned], every_s: float, seconds: float, seed: int) -> Report:
    quiet = [one for one in run.seen if one.at_s < QUIET_S or one.at_s > seconds - QUIET_S]
    later = run.bodies[len(run.bodies) // 3 : 2 * len(run.bodies) // 3], run.bodies[2 * len(run.bodies) // 3 :]
    longest = max((one.seconds for one in run.seen), default=0.0)
    over = sum(one.seconds > DEADLINE_S + LATE_S for one in run.seen)
    stuck = sum(one.seconds > 2 * DEADLINE_S for one in run.seen)
    last = [one for one in quiet if one.at_s > seconds - QUIET_S]
    bars = [
        Bar("answers that are not the known one", float(len(run.wrong)), "<=", 0),
        Bar("calls longer than twice their deadline", float(stuck), "<=", 0),
        Bar(f"calls more than {LATE_S:g} s past their deadline", float(over), "<=", 0),
        Bar("rewards answered but not counted", float(max(0, len(run.acked) - run.committed)), "<=", 0),
        Bar("rewards counted beyond those sent", float(max(0, run.committed - len(run.sent))), "<=", 0),
        Bar("calls that failed after the last fault", float(_failed(last)), "<=", 0),
        Bar("pieces that met bad weather", float(run.struck), ">=", float(any(f.name in WEATHERS for f in plan))),
        Bar("MiB grown from the middle third to the last", _growth(later, "rss_mib"), "<=", MOST_GROWTH_MIB),
        Bar("more open files in the last third", _growth(later, "fds"), "<=", MOST_FDS),
        Bar("more threads in the last third", _growth(later, "threads"), "<=", MOST_THREADS),
    ]
    notes = [
        f"{len(run.seen)} calls in {seconds / 60:.1f} minutes, {len(plan)} faults every {every_s:g} s, seed {seed}; "
        f"the longest took {longest:.2f} s of {DEADLINE_S:g}.",
        f"{len(run.sent)} keyed rewards sent, {len(run.acked)} answered, {run.committed} counted.",
        f"Outcomes: {dict(Counter(one.outcome for one in run.seen))}.",
        *run.wrong[:5],
    ]
    raw = {
        "examples": len(plan),
        "seed": seed,
        "plan": [[round(f.at_s, 1), f.name] for f in plan],
        "bodies": len(run.bodies),
    }
    return Report("endurance", SUMMARY, HEADERS, _rows(run, plan, every_s), bars, raw, notes)


def _rows(run: Run, plan: Sequence[Planned], every_s: float) -> list[list[str]]:
    rows = []
    for name in sorted({fault.name for fault in plan}):
        starts = [fault.at_s for fault in plan if fault.name == name]
        mine = [one for one in run.seen if any(at <= one.at_s < at + every_s / 2 for at in starts)]
        failed = _failed(mine)
        longest = max((one.seconds for one in mine), default=0.0)
        rows.append([name, str(len(starts)), str(len(mine)), str(len(mine) - failed), str(failed), f"{longest:.2f}"])
    return rows


def _failed(calls: Sequence[Seen]) -> int:
    return sum(one.outcome != "answered" for one in calls)


def _growth(thirds: tuple[Sequence[Body], Sequence[Body]], name: str) -> float:
    """Median of the last third minus that of the middle one; infinite where nothing was seen."""
    if not all(thirds):
        return float("inf")
    middle, last = (median(float(getattr(body, name)) for body in third) for third in thirds)
    return max(0.0, last - middle)
