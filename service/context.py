"""What a request can reach: the running service, and the request's own record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from service.admission import Admission, Room
from service.auth import ANYBODY, Authenticator, Principal
from service.cohorts import Assembler
from service.costs import CostGuesser, Load
from service.engines.base import Engine
from service.errors import ServiceError, Unavailable
from service.exchange import Exchange, Use
from service.health import Health
from service.judge import Judge
from service.metrics import Metrics, Observation
from service.rewards import RewardDesk
from service.score_monitor import ScoreMonitor
from service.scoring import Score, Scorer, Trace
from service.seating import Seating
from service.settings import Settings
from service.spans import NO_TRACING, Tracing
from service.stores.base import RewardStore
from service.stores.references_base import ReferenceStore
from service.types import Flag, Usage, Verdict
from service.weights import WeightDesk


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that is built once, at start-up."""

    settings: Settings
    engine: Engine
    store: RewardStore
    scorer: Scorer
    rewards: RewardDesk
    cohorts: Assembler
    references: ReferenceStore
    seating: Seating
    health: Health
    weights: WeightDesk


@dataclass(frozen=True, slots=True)
class Gate:
    """What guards every route, whether or not the model is loaded yet."""

    settings: Settings
    authenticator: Authenticator
    admission: Admission
    metrics: Metrics
    monitor: ScoreMonitor
    tracing: Tracing = NO_TRACING
    costs: CostGuesser = field(default_factory=CostGuesser)
    exchange: Exchange = field(default_factory=Exchange)

    def record(self, seen: Observation) -> None:
        """Called once for each request, when its reply is out."""
        self.metrics.record(seen)
        if seen.version is not None and (seen.samples or seen.rows):
            self.monitor.saw(seen.queue, seen.version, seen.samples, seen.rows, seen.score_kind)


PATIENCE = 0.9
"""Of the time a call has left, how much it waits in line: with less there would be no time to judge it."""


@dataclass(slots=True)
class Call:
    """One HTTP request: who, since when, where its time went, what to record of it.

    ``headers`` by their names in lower case. ``patient``: its sender does not come again when it is told that there is
    no room. ``load`` is what it asked for in all, of which judge.
    """

    request_id: str
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    principal: Principal = ANYBODY
    trace: Trace = field(default_factory=Trace)
    seen: Observation = field(default_factory=Observation)
    deadline_s: float = math.inf
    patient: bool = False
    load: Load = field(default_factory=Load)
    asked: tuple[CostGuesser, Judge] | None = None

    def header(self, name: bytes) -> str | None:
        """A request header by its name in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def announced_bytes(self) -> int | None:
        """Content-Length; None where it is absent or nonsense, so that what arrives must be counted."""
        length = self.headers.get(b"content-length", b"")
        return int(length) if length.isdigit() and len(length) < 20 else None

    @property
    def age_s(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until its deadline."""
        return self.deadline_s - self.age_s

    def judging(self, gate: Gate, judge: Judge, load: Load) -> Judging:
        """Hold room for `load` while judging; wait for it in line, almost to the deadline, where there is none.

        Entering raises `Overloaded`, and `WeightsChanged` where the judge is not the service's any more.
        """
        self.seen.judge, self.seen.version = judge.name, judge.version
        self.load, self.asked = self.load + load, (gate.costs, judge)
        cost, key = gate.costs.cost(judge, load), self.principal.key_id
        room = gate.admission.room(cost, PATIENCE * self.left_s, key, self.patient)
        return Judging(self.trace, cost.prompts, room, gate.exchange.use(judge.version))

    def begin_again(self) -> None:
        """Forget what was asked so far: the request starts over, with other weights."""
        self.load = Load()

    def saw_verdicts(self, outcomes: Sequence[Verdict | ServiceError]) -> None:
        """Note what the judge did, for metrics. Raises the error that concerns the whole service, if one does."""
        verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
        self.seen.verdicts += verdicts
        self._saw(verdicts)
        self._saw_failures(outcomes)

    def saw_scores(self, outcomes: Sequence[Score | ServiceError]) -> None:
        """As `saw_verdicts`, for scores."""
        self._saw([outcome for outcome in outcomes if isinstance(outcome, Score)])
        self._saw_failures(outcomes)

    def saw_ranking(self, usage: Usage, flags: Sequence[tuple[Flag, ...]]) -> None:
        """Note what a ranking cost, and what was found in each response."""
        self.seen.usage += usage
        for found in flags:
            self.seen.flags += found
            self.seen.rows.append(tuple({flag.code for flag in found}))

    def finish(self, status: int, route: str) -> Observation:
        """Close the record."""
        seen = self.seen
        if self.asked is not None and not seen.failures:
            guesser, judge = self.asked
            guesser.learn(judge, self.load, seen.usage)
        seen.status, seen.route, seen.samples = status, route, self.trace.judged
        seen.written, seen.votes_skipped = self.trace.written, self.trace.votes_skipped
        seen.queue_s, seen.tokenize_s, seen.engine_s, seen.seconds = self._times()
        seen.aggregate_s = self.trace.aggregate_s
        return seen

    def server_timing(self) -> str:
        """The Server-Timing header, in milliseconds."""
        queue, tokenize, engine, total = self._times()
        return (
            f"queue;dur={1000 * queue:.1f}, tokenize;dur={1000 * tokenize:.1f}, "
            f"engine;dur={1000 * engine:.1f}, total;dur={1000 * total:.1f}"
        )

    def _times(self) -> tuple[float, float, float, float]:
        """Seconds in queue, tokenization and engine, and in all. Groups are judged side by side and so add up to more
        than the clock says; the stages then share the clock's time in proportion."""
        total, trace = self.age_s, self.trace
        stages = trace.queue_s + trace.tokenize_s + trace.engine_s
        share = min(1.0, total / stages) if stages > 0 else 1.0
        return share * trace.queue_s, share * trace.tokenize_s, share * trace.engine_s, total

    def _saw(self, items: Sequence[Verdict | Score]) -> None:
        seen = self.seen
        seen.usage = Usage.total((seen.usage, *(item.usage for item in items)))
        for item in items:
            seen.flags += item.flags
            seen.rows.append(tuple({flag.code for flag in item.flags}))
            if item.consistent is not None:
                seen.consistency.append(item.consistent)

    def _saw_failures(self, outcomes: Sequence[object]) -> None:
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        self.seen.failures += [failure.code for failure in failures]
        for failure in failures:
            raise_if_whole(failure)


class Judging:
    """Of `Call.judging`: room, then weights; the wait for both is the time in line."""

    __slots__ = ("_prompts", "_room", "_trace", "_use")

    def __init__(self, trace: Trace, prompts: int, room: Room, use: Use) -> None:
        self._trace, self._prompts, self._room, self._use = trace, prompts, room, use

    async def __aenter__(self) -> None:
        waited = time.perf_counter()
        with self._trace.tracing.stage("admission", prompts=self._prompts):
            await self._room.__aenter__()
            try:
                await self._use.__aenter__()
            except BaseException as error:
                await self._room.__aexit__(type(error), error, None)
                raise
        self._trace.queue_s += time.perf_counter() - waited

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self._use.__aexit__(kind, error, trace)
        await self._room.__aexit__(kind, error, trace)


def raise_if_whole(error: ServiceError) -> None:
    """An engine or store that is gone fails the request, not its items: the caller sends all of it again."""
    if isinstance(error, Unavailable):
        raise error


def total_usage(outcomes: Iterable[object]) -> Usage:
    """Tokens of the items that have any."""
    return Usage.total(o.usage for o in outcomes if isinstance(o, Verdict | Score))
