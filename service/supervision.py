"""What stands around the configured engine: one layer that can replace it, one that is not asked twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from service.engine_settings import RemoteSettings
from service.engines.base import Engine, EngineRequest
from service.engines.deduplicated import Answers, DeduplicatedEngine, Outcome
from service.engines.supervised import SupervisedEngine
from service.metrics import Metrics
from service.recovery import RecoveryPolicy
from service.settings import Settings
from service.startup import JudgePlan


def supervise(make: Callable[[], Engine], settings: Settings, plans: Sequence[JudgePlan]) -> SupervisedEngine:
    """The engine that `make` builds, as one that can be replaced, with a canary that every model can answer."""
    canary = EngineRequest((0, 1), "label", label_ids=(0, 1), adapter=None, cache_salt="canary")
    if any(plan.family.reads == "scalar" for plan in plans):
        canary = EngineRequest((0, 1), "scalar", cache_salt="canary")
    limit_s = settings.limits.max_deadline_ms / 1000
    return SupervisedEngine(make, canary, limit_s, settings.recovery.start_timeout_s)


def recovery_policy(settings: Settings) -> RecoveryPolicy:
    """The settings, and what follows from where the engine runs."""
    wanted, remote = settings.recovery, isinstance(settings.engine, RemoteSettings)
    fields = wanted.model_dump(exclude={"on_failure", "start_timeout_s"})
    return RecoveryPolicy(wanted.on_failure or ("stay" if remote else "restart"), **fields, heals_itself=remote)


def share_answers(settings: Settings, engine: SupervisedEngine, metrics: Metrics) -> Engine:
    """The engine, asked only once for what is asked again, unless the cache is off.

    An engine that takes over inherits no answers: those of the last one may be what it died of.
    """
    wanted = settings.cache
    counted = {outcome: metrics.repeats.labels(outcome) for outcome in get_args(Outcome)}
    answers, shared = Answers(0, 0), None
    if wanted.entries and wanted.bytes:
        shared = DeduplicatedEngine(engine, wanted.entries, wanted.bytes, lambda outcome: counted[outcome].inc())
        engine.on_replaced(shared.clear)
        answers = shared.answers
    metrics.watch("gram_cache_entries", "Answers kept for requests that come again.", lambda: len(answers))
    metrics.watch("gram_cache_bytes", "Memory they take.", lambda: answers.bytes)
    return shared or engine
