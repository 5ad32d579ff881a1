"""Every metric, declared once with its unit and buckets, and the one place where a request is recorded.

The registry is our own: an embedded vLLM puts its metrics beside these, and two apps in one process do not collide.
What every request records is kept by `service.loop_metrics`, the rest by the library's own classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from service.errors import ServiceError
from service.loop_metrics import LoopCounter, LoopHistogram
from service.score_health import QueueHealth, Sample
from service.types import Flag, JudgeVersion, Rationale, Usage, Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)
_QUICK = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_MASS = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
STAGES = ("queue", "tokenize", "engine", "aggregate")
"""Of a judging request; the store has a histogram of its own, since not every request goes there."""
REFUSALS = frozenset({"overloaded", "draining", "deadline_exceeded"})
"""Error codes of requests that were fine but found no room or no time."""
_LOGIT = (-8.0, -4.0, -2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(slots=True)
class Observation:
    """What one request leaves behind. ``route`` is the path template, never the path; times are seconds.

    ``queue`` is the reward queue that its scores entered ("" for none), ``samples`` what its judge did there, ``rows``
    the flag codes of each row of its reply, ``written`` its rationales, those without a verdict too.
    """

    route: str = "unmatched"
    status: int = 0
    seconds: float = 0.0
    queue_s: float = 0.0
    tokenize_s: float = 0.0
    engine_s: float = 0.0
    judge: str | None = None
    usage: Usage = field(default_factory=Usage)
    verdicts: list[Verdict] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    consistency: list[bool] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    version: JudgeVersion | None = None
    queue: str = ""
    score_kind: str | None = None
    samples: list[Sample] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    written: list[Rationale] = field(default_factory=list)
    votes_skipped: int = 0
    aggregate_s: float = 0.0


class Metrics:
    """The declarations. Gauges of live state are read when scraped."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.requests = LoopCounter("gram_requests", "HTTP requests.", ["route", "status"], r)
        self.seconds = LoopHistogram("gram_request_seconds", "From first byte to reply.", ["route"], r, bounds=_SECONDS)
        self.stages = LoopHistogram(
            "gram_stage_seconds", "Where judging requests spend time.", ["stage"], r, bounds=_SECONDS
        )
        self.tokens = LoopCounter("gram_tokens", "Tokens of all prompts and answers.", ["judge", "kind"], r)
        self.comparisons = LoopCounter("gram_comparisons", "Pairs judged, both orders each.", ["judge"], r)
        self.judging = JudgingMetrics(r)
        self.written = WrittenMetrics(r)
        self.repeats = Counter(
            "gram_repeatable_prompts",
            "Prompts with one possible answer, by where it came from.",
            ["outcome"],
            registry=r,
        )
        self.cohorts = Counter("gram_cohorts", "Groups assembled member by member.", ["outcome"], registry=r)
        self.cohort_seconds = Histogram(
            "gram_cohort_assembly_seconds", "From a group's first member to its last.", registry=r, buckets=_SECONDS
        )
        self.errors = Counter(
            "gram_errors", "Requests with this error, of the whole or of an item.", ["code"], registry=r
        )
        self.restarts = Counter("gram_engine_restarts", "Engines started after one failed.", ["outcome"], registry=r)
        self.rejected = Counter("gram_rejected", "Requests that found no room or no time.", ["reason"], registry=r)
        self.queues = QueueGauges(r)
        self.weights = WeightMetrics(r)
        self.store = StoreMetrics(r)
        ProcessCollector(registry=r)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read when scraped."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def record(self, seen: Observation) -> None:
        """Called once for each request, when its reply is out."""
        self.requests.add(seen.route, str(seen.status))
        self.seconds.observe(seen.seconds, seen.route)
        if seen.failures:
            self._record_failures(set(seen.failures))
        if seen.judge is None:
            return
        times, usage = (seen.queue_s, seen.tokenize_s, seen.engine_s, seen.aggregate_s), seen.usage
        for stage, seconds in zip(STAGES, times, strict=True):
            self.stages.observe(seconds, stage)
        self.tokens.add(seen.judge, "prompt", by=usage.prompt_tokens)
        self.tokens.add(seen.judge, "cached", by=usage.cached_tokens)
        self.tokens.add(seen.judge, "completion", by=usage.completion_tokens)
        self.comparisons.add(seen.judge, by=usage.comparisons)
        self.written.record(seen.judge, seen)
        self.judging.record(seen.judge, seen)

    def _record_failures(self, codes: set[str]) -> None:
        for code in codes:
            self.errors.labels(code).inc()
        for reason in REFUSALS & codes:
            self.rejected.labels(reason).inc()

    def record_cohort(self, outcome: str, assembly_s: float) -> None:
        """Called once for each group, when it is judged or has failed."""
        self.cohorts.labels(outcome).inc()
        self.cohort_seconds.observe(assembly_s)

    def render(self) -> bytes:
        """The exposition text."""
        text: bytes = generate_latest(self.registry)
        return text


class JudgingMetrics:
    """How well judges judge: failures, flags, order agreement, label mass, position bias."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "gram_failed_items", "Items without a usable judgment.", ["judge", "code"], registry=registry
        )
        self.flags = LoopCounter("gram_flags", "Things found in texts.", ["judge", "code", "where"], registry)
        self.consistency = LoopCounter(
            "gram_order_consistency",
            "Items by whether both orders agree.",
            ["judge", "consistent"],
            registry,
        )
        self.label_mass = LoopHistogram(
            "gram_label_mass", "p(A) + p(B), smaller order.", ["judge"], registry, bounds=_MASS
        )
        self.position_bias = LoopHistogram(
            "gram_position_bias_logit",
            "Mean log-odds (nats) of the response shown first; 0 for a judge without position bias.",
            ["judge"],
            registry,
            bounds=_LOGIT,
        )

    def record(self, judge: str, seen: Observation) -> None:
        """One request's judgments."""
        for code in seen.failures:
            self.failures.labels(judge, code).inc()
        for flag in seen.flags:
            self.flags.add(judge, flag.code, flag.where, by=flag.count)
        for consistent in seen.consistency:
            self.consistency.add(judge, "yes" if consistent else "no")
        for verdict in seen.verdicts:
            if verdict.label_mass is not None:
                self.label_mass.observe(verdict.label_mass, judge)
                self.position_bias.observe(_mean_logit((verdict.p_ab, verdict.p_ba)), judge)


class WrittenMetrics:
    """How judges write: how their texts end, how long they are, and which were never needed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rationales = LoopCounter(
            "gram_rationales", "Written judgments by how they ended.", ["judge", "outcome"], registry
        )
        self._tokens = LoopHistogram(
            "gram_rationale_tokens", "Length of a written judgment.", ["judge"], registry, bounds=_LENGTHS
        )
        self._skipped = Counter(
            "gram_votes_skipped", "Votes that could not change the answer.", ["judge"], registry=registry
        )

    def record(self, judge: str, seen: Observation) -> None:
        """One request's texts."""
        for rationale in seen.written:
            self._rationales.add(judge, rationale.outcome)
            self._tokens.observe(rationale.tokens, judge)
        if seen.votes_skipped:
            self._skipped.labels(judge).inc(seen.votes_skipped)


class StoreMetrics:
    """Calls of the reward store: not every request makes one, and some make three."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = LoopHistogram(
            "gram_store_seconds", "Calls of the reward store.", ["operation"], registry, bounds=_QUICK
        )
        self._failures = Counter(
            "gram_store_failures", "Calls of the reward store that failed, by error code.", ["code"], registry=registry
        )

    @contextmanager
    def call(self, operation: str) -> Iterator[None]:
        """Around one call."""
        started = time.perf_counter()
        try:
            yield
        except ServiceError as error:
            self._failures.labels(error.code).inc()
            raise
        finally:
            self._seconds.observe(time.perf_counter() - started, operation)


class WeightMetrics:
    """Which weights judge, and how changes of them went."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._judges = Gauge(
            "gram_judge_info",
            "1 for each judge there is, with what exactly it is.",
            ["judge", "weight_version", "template_hash"],
            registry=registry,
        )
        self._changes = Counter(
            "gram_weight_changes", "Changes of weights and adapters.", ["kind", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "gram_weight_change_seconds", "What a change took.", ["kind"], registry=registry, buckets=_SECONDS
        )

    def publish(self, versions: Iterable[JudgeVersion]) -> None:
        """Replace what is shown."""
        self._judges.clear()
        for version in versions:
            self._judges.labels(version.judge, version.weight_version, version.template_hash).set(1)

    def record(self, kind: str, outcome: str, seconds: float) -> None:
        """One change."""
        self._changes.labels(kind, outcome).inc()
        self._seconds.labels(kind).observe(seconds)


class QueueGauges:
    """Score health by queue and judge. A figure without data has no series, rather than a number that means nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gauges = {
            name: Gauge(f"gram_queue_{name}", text, ["queue", "judge"], registry=registry)
            for name, text in _QUEUE_FIGURES.items()
        }
        self._codes = Gauge(
            "gram_queue_flagged_code_share",
            "Share of recent rows with this flag.",
            ["queue", "judge", "code"],
            registry=registry,
        )
        self._shown: dict[tuple[str, str], set[str]] = {}

    def publish(self, health: QueueHealth) -> None:
        """Replace what is shown of this queue and judge."""
        label = (health.queue, health.judge)
        self.remove(label)
        for name, value in _figures(health).items():
            if value is not None:
                self._gauges[name].labels(*label).set(value)
        by_code = health.figures.flagged.by_code
        for code, share in by_code.items():
            self._codes.labels(*label, code).set(share)
        self._shown[label] = set(by_code)

    def keep(self, labels: Iterable[tuple[str, str]]) -> None:
        """Remove everything else, so that the number of series stays bounded."""
        for label in set(self._shown).difference(labels):
            self.remove(label)

    def remove(self, label: tuple[str, str]) -> None:
        """Take a queue and judge out, whether or not they are shown."""
        for gauge in self._gauges.values():
            gauge.remove(*label)
        for code in self._shown.pop(label, ()):
            self._codes.remove(*label, code)


_QUEUE_FIGURES = {
    "comparisons": "Recent judgments that the other figures are made from.",
    "position_bias_logit": "Mean log-odds (nats) of the response shown first; 0 for a judge without position bias.",
    "position_bias_logit_stderr": "Standard error of the mean position bias, in nats.",
    "flip_rate": "Share of comparisons whose two display orders disagree.",
    "flip_rate_low": "Lower end of the flip rate's 95 % interval.",
    "flip_rate_high": "Upper end of the flip rate's 95 % interval.",
    "label_mass": "Mean of p(A) + p(B), smaller order.",
    "label_mass_min": "Minimum of p(A) + p(B), smaller order.",
    "flagged_share": "Share of rows with at least one flag.",
    "length_slope": "Nats of lead (a scalar judge: score) for each factor e of length in characters.",
    "length_slope_stderr": "Standard error of the length slope.",
    "drift_psi": "Population stability index of the window against the queue's first full one.",
    "drift_ks": "Kolmogorov-Smirnov distance of the window from the queue's first full one.",
    "drift_p_value": "P(a distance at least this large without drift).",
}


def _figures(health: QueueHealth) -> dict[str, float | None]:
    """The values of `_QUEUE_FIGURES`."""
    figures, drift = health.figures, health.drift
    return {
        "comparisons": float(figures.comparisons),
        "position_bias_logit": figures.position_bias.mean,
        "position_bias_logit_stderr": figures.position_bias.stderr,
        "flip_rate": figures.flip_rate.value,
        "flip_rate_low": figures.flip_rate.low,
        "flip_rate_high": figures.flip_rate.high,
        "label_mass": figures.label_mass.mean,
        "label_mass_min": figures.label_mass.min,
        "flagged_share": figures.flagged.share,
        "length_slope": figures.length_slope.value,
        "length_slope_stderr": figures.length_slope.stderr,
        "drift_psi": drift.psi,
        "drift_ks": drift.ks,
        "drift_p_value": drift.p_value,
    }


def _mean_logit(probabilities: Sequence[float]) -> float:
    """Mean log-odds in nats, each bounded where floats end (about +-37)."""
    total = 0.0
    for p in probabilities:
        clipped = min(max(p, 1e-16), 1 - 1e-16)
        total += math.log(clipped / (1.0 - clipped))
    return total / len(probabilities)
