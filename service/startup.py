"""From settings to a running service: engine, store, judges, and the tests each judge passes before the first request.

Every failure is a `StartupError` of one sentence that says what to do; nothing here starts half a service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from service.commit_log import CommitLog
from service.engine_settings import FakeSettings, RemoteSettings, VllmSettings
from service.engines.base import Engine, Repetition, prompt_limit
from service.errors import ServiceError, StartupError
from service.judge import Judge
from service.judging.base import Family, read_labels, read_scalar, template_hash
from service.judging.registry import get_family
from service.judgment import TextMemo, conversation_key, label_request, prepare, prepare_one, scalar_request
from service.manifest import JudgeEntry, Manifest, SelfTest
from service.remote_code import refuse_remote_code
from service.scoring import Scorer, Trace
from service.settings import (
    DEFAULT_REPETITION,
    MemoryStoreSettings,
    RedisStoreSettings,
    Settings,
)
from service.spans import NO_TRACING, Tracing
from service.stores.base import RewardStore
from service.stores.cohorts_base import CohortLimits, CohortStore
from service.stores.cohorts_memory import MemoryCohorts
from service.stores.references_base import ReferenceLimits, ReferenceStore
from service.tokenization import ChatTokenizer
from service.types import Comparison, JudgeVersion, OnBudget, Prompt, Rendered, Response, TextFlag, Verdict

if TYPE_CHECKING:
    from service.stores.redis_link import LinkOptions

log = logging.getLogger("gram.startup")

MIN_PROMPT_TOKENS = 32
SELF_TEST_SAMPLES = 1000
SAMPLE = Comparison(Prompt.from_text("x"), Response("y"), Response("z"))


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """A judge before the engine is there. None = what the family and the model allow."""

    name: str
    family: Family
    labels: tuple[str, ...]
    adapter: str | None = None
    max_prompt_tokens: int | None = None
    max_rationale_tokens: int | None = None
    min_label_mass: float = 0.05
    self_test: SelfTest | None = None
    on_budget: OnBudget = "invalid"
    stop_repetition: int = DEFAULT_REPETITION
    refuse_flags: frozenset[TextFlag] = frozenset()


def load_manifest(settings: Settings) -> Manifest | None:
    """The manifest of the configured checkpoint. A hub id has none: its judges are named in the configuration.

    Raises `StartupError` for a checkpoint that would run code of its own and is not trusted to.
    """
    model = Path(settings.engine.model)
    if model.is_dir():
        if not (isinstance(settings.engine, FakeSettings) or settings.engine.trust_remote_code):
            refuse_remote_code(model)
        return Manifest.load(model)
    if isinstance(settings.engine, FakeSettings):
        return None
    if model.is_absolute() or settings.engine.model.startswith((".", "~")) or model.exists():
        raise StartupError(f"There is no model directory {model}; correct engine.model or --model.")
    return None


def plan_judges(settings: Settings, manifest: Manifest | None) -> list[JudgePlan]:
    """The judges the configuration names, else those of the checkpoint's manifest. Raises `StartupError`."""
    plans = _plans(settings, manifest)
    if settings.compat.judge not in (None, *(plan.name for plan in plans)):
        names = ", ".join(plan.name for plan in plans)
        raise StartupError(f"compat.judge names no judge of this service; its judges are {names}.")
    return plans


def _plans(settings: Settings, manifest: Manifest | None) -> list[JudgePlan]:
    entries = manifest.judges if manifest else ()
    if settings.judges:
        return [_from_settings(settings, number, entries) for number in range(len(settings.judges))]
    if entries:
        return [plan_of(entry) for entry in entries]
    if isinstance(settings.engine, FakeSettings):
        return [_plain(name, get_family(name)) for name in ("gram", "gram_r2")]
    raise StartupError(f"{settings.engine.model} carries no judge.json; say what it is with --family or [[judges]].")


def _plain(name: str, family: Family) -> JudgePlan:
    return JudgePlan(name, family, family.labels if family.reads != "scalar" else ())


def _from_settings(settings: Settings, number: int, entries: Sequence[JudgeEntry]) -> JudgePlan:
    """A configured judge; the checkpoint's own entry for the same family and adapter lends limits and self-test."""
    wanted = settings.judges[number]
    family = get_family(wanted.family, wanted.template)
    same = [e for e in entries if (e.family, e.template, e.adapter) == (family.name, family.template, wanted.adapter)]
    entry = same[0] if same else None
    labels = family.labels if family.reads != "scalar" else ()
    return JudgePlan(
        wanted.name,
        family,
        entry.labels if entry else labels,
        wanted.adapter,
        entry.max_prompt_tokens if entry else None,
        wanted.max_rationale_tokens or (entry.max_rationale_tokens if entry else None),
        wanted.min_label_mass,
        entry.self_test if entry else None,
        wanted.on_budget,
        wanted.stop_repetition,
        wanted.refuse_flags,
    )


def plan_of(entry: JudgeEntry) -> JudgePlan:
    """The plan of a manifest's judge. Raises `StartupError` for labels that do not fit its family."""
    family = get_family(entry.family, entry.template)
    if (family.reads == "scalar") != (not entry.labels):
        raise StartupError(f"Judge {entry.name} of judge.json has labels that do not fit its family; correct them.")
    if family.reads == "rationale" and entry.labels != family.labels:
        raise StartupError(f"Judge {entry.name} of judge.json must have the labels {family.labels}; correct them.")
    return JudgePlan(
        entry.name,
        family,
        entry.labels,
        entry.adapter and entry.name,
        entry.max_prompt_tokens,
        entry.max_rationale_tokens,
        self_test=entry.self_test,
    )


def pick_engine(
    settings: Settings, plans: Sequence[JudgePlan], manifest: Manifest | None, registry: CollectorRegistry
) -> Engine:
    """The configured engine, not started."""
    return engine_maker(settings, plans, manifest, registry)()


def engine_maker(
    settings: Settings, plans: Sequence[JudgePlan], manifest: Manifest | None, registry: CollectorRegistry
) -> Callable[[], Engine]:
    """What builds the configured engine, as often as it is called. Raises `StartupError`."""
    fields = engine_fields(settings, plans, manifest)
    return lambda: _engine(settings, fields, registry)


def _engine(settings: Settings, fields: Mapping[str, Any], registry: CollectorRegistry) -> Engine:
    """Imports stand here so that `fake` and `remote` never load vLLM or a model."""
    wanted = settings.engine
    if isinstance(wanted, FakeSettings):
        from service.engines.fake import FakeEngine, FakeOptions

        return FakeEngine(FakeOptions(**fields))
    if isinstance(wanted, VllmSettings):
        from service.engines.vllm import VllmEngine, VllmOptions

        return VllmEngine(VllmOptions(**fields), registry)
    if isinstance(wanted, RemoteSettings):
        from service.engines.remote import RemoteEngine, RemoteOptions

        return RemoteEngine(RemoteOptions(**fields))
    from service.engines.transformers import TransformersEngine, TransformersOptions

    return TransformersEngine(TransformersOptions(**fields))


def engine_fields(settings: Settings, plans: Sequence[JudgePlan], manifest: Manifest | None) -> dict[str, Any]:
    """The engine's options: the settings, and what follows from judges and manifest. Raises `StartupError`."""
    wanted = settings.engine
    fields = wanted.model_dump(exclude={"type"}, exclude_none=True)
    if isinstance(wanted, FakeSettings):
        from service.engines.fake_faults import FaultPlan, PlannedFault

        return fields | {"faults": FaultPlan([PlannedFault(**fault.model_dump()) for fault in wanted.faults])}
    if isinstance(wanted, VllmSettings):
        fields["traces_endpoint"], fields["json_logs"] = settings.tracing.endpoint, settings.log.format == "json"
    scalar = {plan.family.reads == "scalar" for plan in plans}
    if len(scalar) > 1:
        raise StartupError("One engine runs scalar judges or pairwise ones, not both; start a service for each.")
    if True in scalar:
        fields["runner"] = "pooling"
    if manifest is not None:
        fields.setdefault("weight_version", manifest.version)
    if "trust_remote_code" in fields.get("extra", {}):
        raise StartupError("Set engine.trust_remote_code, not engine.extra: the tokenizer obeys it too.")
    if isinstance(wanted, RemoteSettings):
        del fields["trust_remote_code"]  # of the tokenizer here; the servers have their own
        if wanted.api_key is not None:
            fields["api_key"] = wanted.api_key.get_secret_value()
    else:
        fields["adapters"] = manifest_adapters(wanted.model, manifest) | wanted.adapters
    return fields


def pick_store(settings: Settings) -> RewardStore:
    """The configured store, not started; each one's library is imported only where it is used."""
    if isinstance(settings.store, MemoryStoreSettings):
        from service.stores.memory import MemoryStore

        return MemoryStore()
    if isinstance(settings.store, RedisStoreSettings):
        return _redis_store(settings.store)
    from service.stores.sqlite import SqliteStore

    return SqliteStore(settings.store.path)


def pick_tracing(settings: Settings) -> Tracing:
    """Where spans go; nowhere without an address. Raises `StartupError` where OpenTelemetry is not installed."""
    wanted = settings.tracing
    if wanted.endpoint is None:
        return NO_TRACING
    try:
        from service.tracing import tracing_to
    except ModuleNotFoundError as error:
        raise StartupError("Traces need OpenTelemetry; install it: pip install 'gram-serve[otel]'.") from error
    return tracing_to(wanted.endpoint, wanted.service_name, wanted.sample_ratio)


def open_commit_log(settings: Settings) -> CommitLog | None:
    """The log that ``store.commit_log`` names, open. Raises `StartupError`."""
    if settings.store.commit_log is None:
        return None
    log = CommitLog(settings.store.commit_log)
    log.open()
    return log


def pick_cohorts(settings: Settings) -> CohortStore:
    """Where groups are assembled: the Redis of the reward queues, or this process's memory (the other stores serve one
    process)."""
    limits = CohortLimits(settings.cohorts.max_groups, settings.cohorts.max_bytes, settings.cohorts.keep_s)
    wanted = settings.store
    if not isinstance(wanted, RedisStoreSettings):
        return MemoryCohorts(limits)
    from service.stores.cohorts_redis import RedisCohorts

    options = _link_options(wanted)
    return RedisCohorts(wanted.url.get_secret_value(), limits, prefix=wanted.prefix, options=options)


def pick_references(settings: Settings) -> ReferenceStore:
    """Where references lie: with the reward queues, in SQLite in a file beside theirs."""
    limits = ReferenceLimits(settings.references.max_entries, settings.references.max_bytes)
    wanted = settings.store
    if isinstance(wanted, MemoryStoreSettings):
        from service.stores.references_memory import MemoryReferences

        return MemoryReferences(limits)
    if isinstance(wanted, RedisStoreSettings):
        from service.stores.references_redis import RedisReferences

        url, options = wanted.url.get_secret_value(), _link_options(wanted)
        return RedisReferences(url, limits, prefix=wanted.prefix, options=options)
    from service.stores.references_sqlite import SqliteReferences

    return SqliteReferences(wanted.path.with_name(f"{wanted.path.stem}-references.sqlite"), limits)


def _redis_store(wanted: RedisStoreSettings) -> RewardStore:
    try:
        from service.stores.redis import RedisStore
    except ModuleNotFoundError as error:
        raise StartupError("The Redis store needs the library redis; install it: pip install redis.") from error
    return RedisStore(wanted.url.get_secret_value(), prefix=wanted.prefix, options=_link_options(wanted))


def _link_options(wanted: RedisStoreSettings) -> LinkOptions:
    from service.stores.redis_link import LinkOptions

    return LinkOptions(wanted.connect_timeout_s, wanted.timeout_s, wanted.max_connections)


def manifest_adapters(model: str, manifest: Manifest | None) -> dict[str, str]:
    """Adapters that come with the checkpoint, by the name of their judge."""
    entries = manifest.judges if manifest else ()
    return {entry.name: str(Path(model) / entry.adapter) for entry in entries if entry.adapter}


async def load_tokenizer(settings: Settings) -> ChatTokenizer:
    """The checkpoint's tokenizer; the fake engine has one token a byte."""
    if isinstance(settings.engine, FakeSettings):
        from service.byte_tokenizer import byte_tokenizer

        return byte_tokenizer()
    wanted = settings.engine
    return await asyncio.to_thread(ChatTokenizer.load, wanted.model, trust_remote_code=wanted.trust_remote_code)


async def build_judges(plans: Sequence[JudgePlan], engine: Engine, tokenizer: ChatTokenizer) -> list[Judge]:
    """Judges on a started engine, each with its tokens resolved and the tokenizer tested in its prompt's shape."""
    judges = [make_judge(plan, engine, tokenizer) for plan in plans]
    await check_tokenizer(plans, tokenizer)
    return judges


async def check_tokenizer(plans: Sequence[JudgePlan], tokenizer: ChatTokenizer) -> None:
    """Raises `StartupError` where the tokenizer cannot keep texts and control tokens apart."""
    for shape in {_shape(plan.family): None for plan in plans}:
        await asyncio.to_thread(tokenizer.self_test, SELF_TEST_SAMPLES, shape)


def _shape(family: Family) -> Rendered:
    if family.reads == "scalar":
        return family.render_one(SAMPLE.prompt, SAMPLE.first)
    return family.render(SAMPLE)


def make_judge(plan: JudgePlan, engine: Engine, tokenizer: ChatTokenizer) -> Judge:
    """The plan's judge on a started engine. Raises `StartupError` for limits without room, and adapters it lacks."""
    info, family = engine.info, plan.family
    if plan.adapter is not None and plan.adapter not in info.adapter_versions:
        raise StartupError(f"Judge {plan.name} is the adapter {plan.adapter}; name its folder in engine.adapters.")
    label_ids: tuple[int, ...] = ()
    rationale_tokens = 0
    if family.reads != "scalar":
        context = _shape(family) if family.reads == "label" else None
        label_ids = tokenizer.label_ids(context, family.verdict_opener, (plan.labels[0], plan.labels[1]))
    if family.reads == "rationale":
        rationale_tokens = plan.max_rationale_tokens or min(family.max_rationale_tokens, info.max_model_len // 2)
    room = prompt_limit("scalar" if family.reads == "scalar" else "label", info.max_model_len) - rationale_tokens
    prompt_tokens = min(room, plan.max_prompt_tokens or room)
    if prompt_tokens < MIN_PROMPT_TOKENS:
        raise StartupError(
            f"Judge {plan.name} leaves {prompt_tokens} of {info.max_model_len} tokens for prompts; "
            "lower its max_rationale_tokens or raise engine.max_model_len."
        )
    return Judge(
        name=plan.name,
        family=family,
        engine=engine,
        tokenizer=tokenizer,
        version=JudgeVersion(plan.name, info.version_of(plan.adapter), template_hash(family, tokenizer.chat_template)),
        label_ids=label_ids,
        max_prompt_tokens=prompt_tokens,
        max_rationale_tokens=rationale_tokens,
        adapter=plan.adapter,
        min_label_mass=plan.min_label_mass,
        on_budget=plan.on_budget,
        repetition=Repetition(plan.stop_repetition) if plan.stop_repetition else None,
        refuse_flags=plan.refuse_flags,
    )


async def probe(judge: Judge) -> None:
    """One read of the judge's model. Raises `ServiceError` where it gives no finite number."""
    if judge.is_scalar:
        ids, _ = prepare_one(judge, SAMPLE.prompt, SAMPLE.first)
        completion = await judge.engine.complete(scalar_request(judge, ids, None, conversation_key(SAMPLE.prompt)))
        read_scalar(completion.score)
    else:
        prepared = prepare(judge, SAMPLE, TextMemo())
        completion = await judge.engine.complete(label_request(judge, prepared.prompts[0], None, prepared.affinity))
        read_labels(completion.label_logprobs)


async def self_test(scorer: Scorer, plans: Sequence[JudgePlan]) -> None:
    """Each judge must get its checkpoint's own pair right, through the very pipeline that requests take."""
    for plan in plans:
        if plan.self_test is None:
            continue
        test = plan.self_test
        pair = Comparison(Prompt.from_text(test.prompt), Response(test.chosen), Response(test.rejected))
        (outcome,) = await scorer.compare(scorer.judges[plan.name], [pair], trace=Trace())
        if isinstance(outcome, ServiceError):
            raise StartupError(
                f"Judge {plan.name} failed the self-test of judge.json ({outcome.message}); check the checkpoint."
            )
        _check_self_test(plan.name, outcome, test)


def _check_self_test(name: str, verdict: Verdict, test: SelfTest) -> None:
    if verdict.p_first < test.min_p:
        raise StartupError(
            f"Judge {name} prefers the right response of its self-test with p = {verdict.p_first:.3f}, not with the "
            f"promised {test.min_p}; the checkpoint, its family or its tokenizer is not the one judge.json describes."
        )
    log.info("judge %s passed its self-test with p = %.3f", name, verdict.p_first)
