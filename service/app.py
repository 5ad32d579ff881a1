"""The application: wiring, start and stop, and the one table from error to HTTP status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service import errors
from service.admission import Admission, Bounds
from service.auth import ApiKey, Authenticator
from service.cohorts import Assembler
from service.context import Gate, Service
from service.engines.base import Engine, fingerprint_weights
from service.engines.supervised import SupervisedEngine
from service.errors import InvalidInput, InvalidJson, NotFound, ServiceError
from service.health import Health, Patience
from service.manifest import Manifest
from service.metrics import Metrics
from service.middleware import CLIENT_GONE, Application, CallMiddleware
from service.presence import ClientGone
from service.recovery import Recovery, RecoveryPolicy
from service.reference_file import load_references
from service.rewards import RewardDesk, Watched
from service.routes import (
    compare,
    health,
    models,
    queues,
    rank,
    rationale,
    references,
    rerank,
    score,
    trainers,
    weights,
)
from service.routes.base import Shortcut
from service.schemas.replies import ErrorDetail, ErrorReply
from service.schemas.requests import SHAPE_TAGS
from service.score_monitor import ScoreMonitor
from service.scoring import Scorer
from service.seating import Seating
from service.settings import Settings
from service.spans import Tracing
from service.startup import (
    JudgePlan,
    build_judges,
    engine_maker,
    load_manifest,
    load_tokenizer,
    open_commit_log,
    pick_cohorts,
    pick_references,
    pick_store,
    pick_tracing,
    plan_judges,
    self_test,
)
from service.stores.base import RewardStore
from service.stores.cohorts_base import Policy
from service.stores.references_base import ReferenceStore
from service.supervision import recovery_policy, share_answers, supervise
from service.weights import Change, Served, WeightDesk

log = logging.getLogger("gram.app")

TITLE = "Reward scoring service"
DESCRIPTION = """Probabilities are in [0, 1]; margins are log-odds in nats; lengths are tokens.

A failed judgment is never a number: a single request answers with its status, a batch with 200 and the failed items
marked, their numbers null. The routes in trainers' own formats, which cannot do without a number, send a neutral one
and mark it."""

STATUS: dict[type[ServiceError], int] = {
    errors.ServiceError: 500,
    errors.BadRequest: 400,
    errors.InvalidJson: 400,
    errors.InvalidInput: 422,
    errors.TokenLimitExceeded: 422,
    errors.RefusedText: 422,
    errors.UnsupportedMediaType: 415,
    errors.BodyTooLarge: 413,
    errors.NotFound: 404,
    errors.UnknownJudge: 404,
    errors.Conflict: 409,
    errors.NotApplied: 409,
    errors.AuthError: 401,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.JudgmentFailed: 502,
    errors.InvalidVerdict: 502,
    errors.NonFiniteScore: 502,
    errors.LowLabelMass: 502,
    errors.Unavailable: 503,
    errors.Overloaded: 503,
    errors.Draining: 503,
    errors.EngineDead: 503,
    errors.StoreUnavailable: 503,
    errors.WeightsChanged: 503,
    errors.DeadlineExceeded: 504,
    errors.CohortIncomplete: 504,
    errors.StartupError: 500,
    errors.InternalError: 500,
    errors.ControlTokenViolation: 500,
}
"""Every class of `service.errors`; a test compares the two."""

ROUTERS = (
    *(compare.router, rank.router, rationale.router, score.router, models.router),
    *(trainers.router, rerank.router, references.router),
    *(queues.router, queues.admin, weights.router, health.probes, health.metrics, health.description),
)

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The caller can fix it."},
    "5XX": {"model": ErrorReply, "description": "The service could not answer; `retryable` says whether to try again."},
}


def build_app(
    settings: Settings,
    engine: Engine | None = None,
    store: RewardStore | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application for `settings`; the others replace what is configured (engine and store are not started yet).

    Its lifespan raises `StartupError` where the service must not start.
    """
    gate = _gate(settings, tracing or pick_tracing(settings))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(gate, engine, store) as service:
            app.state.service = service
            yield

    app = Application(
        title=TITLE,
        summary="Generative reward models as rewards for RLHF.",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=ERROR_RESPONSES,
    )
    app.state.gate = gate
    for router in ROUTERS:
        app.include_router(router)
    limit = settings.limits.max_body_bytes
    app.add_middleware(Shortcut, routes=app.routes)
    app.add_middleware(
        CallMiddleware, record=gate.record, max_body_bytes=limit, refuse=error_reply, tracing=gate.tracing
    )
    _add_error_handlers(app)
    return app


def _gate(settings: Settings, tracing: Tracing) -> Gate:
    keys = [ApiKey(key.id, key.sha256, key.scopes, key.expires) for key in settings.auth.keys]
    secret = settings.auth.secret.get_secret_value() if settings.auth.secret else None
    monitor = ScoreMonitor(settings.score_health.window, settings.score_health.max_queues)
    limits = settings.limits
    bounds = Bounds(limits.max_prompts, limits.max_tokens, limits.max_waiting, settings.compat.max_waiting)
    return Gate(settings, Authenticator(keys, secret), Admission(bounds), Metrics(), monitor, tracing)


@asynccontextmanager
async def running(gate: Gate, engine: Engine | None, store: RewardStore | None) -> AsyncIterator[Service]:
    """Start everything in order and stop it in reverse, also when a later step of the start fails."""
    settings = gate.settings
    manifest = load_manifest(settings)
    plans = plan_judges(settings, manifest)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, gate.tracing.close)
        store = store or pick_store(settings)
        stack.push_async_callback(store.close)
        await store.start()
        commit_log = open_commit_log(settings)
        if commit_log is not None:
            stack.callback(commit_log.close)
        cohorts = await _cohorts(gate, stack)
        references = await _references(settings, stack)
        tokenizer = await load_tokenizer(settings)
        supervised = _supervised(settings, plans, manifest, gate, engine)
        shared = share_answers(settings, supervised, gate.metrics)
        stack.push_async_callback(shared.close)
        await shared.start()
        scorer = Scorer(await build_judges(plans, shared, tokenizer))
        await self_test(scorer, plans)
        fingerprint = await asyncio.to_thread(fingerprint_weights, settings.engine.model)
        served = Served(settings.engine.model, manifest, tuple(plans), tokenizer, fingerprint)
        changes = _weight_desk(gate, shared, scorer, served, cohorts)
        stack.push_async_callback(changes.close)
        policy = RecoveryPolicy() if engine is not None else recovery_policy(settings)
        watchdog = _watchdog(gate, supervised, store, policy)
        stack.push_async_callback(_stop, asyncio.create_task(watchdog.watch()))
        stack.push_async_callback(_stop, asyncio.create_task(_publish_health(gate, store)))
        desk, seating = RewardDesk(store, commit_log, _watched(gate)), Seating(settings.cohorts.keep_s)
        yield Service(settings, shared, store, scorer, desk, cohorts, references, seating, watchdog, changes)


def _supervised(
    settings: Settings, plans: Sequence[JudgePlan], manifest: Manifest | None, gate: Gate, engine: Engine | None
) -> SupervisedEngine:
    """The configured engine, or the one that was handed in: of that there is one only, and it is asked nothing else."""
    if engine is not None:
        return SupervisedEngine(lambda: engine, None, settings.limits.max_deadline_ms / 1000)
    log.info("starting the engine %s; the port opens when it has answered", settings.engine.type)
    return supervise(engine_maker(settings, plans, manifest, gate.metrics.registry), settings, plans)


def _watchdog(gate: Gate, engine: SupervisedEngine, store: RewardStore, policy: RecoveryPolicy) -> Health:
    limits, counted = gate.settings.limits, gate.metrics.restarts
    recovery = Recovery(engine, gate.admission, policy, lambda outcome: counted.labels(outcome).inc())
    patience = Patience(limits.canary_s, limits.stall_s, limits.fatal_stall_s)
    watchdog = Health(engine, store, gate.admission, patience, recovery)
    _watch(gate, engine, watchdog)
    return watchdog


def _weight_desk(gate: Gate, engine: Engine, scorer: Scorer, served: Served, cohorts: Assembler) -> WeightDesk:
    """Lets the judges be used from now on, and whatever they are changed to."""
    shown, exchange = gate.metrics.weights, gate.exchange

    def saw(change: Change) -> None:
        shown.record(change.kind, change.outcome, change.seconds)
        shown.publish(judge.version for judge in scorer.judges.values())

    exchange.admit(judge.version for judge in scorer.judges.values())
    shown.publish(judge.version for judge in scorer.judges.values())
    gate.metrics.watch("gram_weights_changing", "1 while requests wait for a change.", lambda: exchange.is_changing)
    return WeightDesk(gate.settings, engine, scorer, served, exchange, cohorts.renew, saw)


def _watched(gate: Gate) -> Watched:
    """Around each call of the reward store: its time, its failures, its span."""

    @contextmanager
    def watched(operation: str) -> Iterator[None]:
        with gate.tracing.stage("store", operation=operation), gate.metrics.store.call(operation):
            yield

    return watched


async def _cohorts(gate: Gate, stack: AsyncExitStack) -> Assembler:
    """The assembler of groups on its started store; when the service drains it lets go of those who wait."""
    wanted = gate.settings.cohorts
    store = pick_cohorts(gate.settings)
    stack.push_async_callback(store.close)
    await store.start()
    assembler = Assembler(store, Policy(wanted.policy == "judge_partial", wanted.quorum), gate.metrics.record_cohort)
    gate.admission.on_drain(assembler.drain)
    gate.metrics.watch("gram_cohort_waiting", "Members that wait for their group.", lambda: assembler.waiting)
    return assembler


async def _references(settings: Settings, stack: AsyncExitStack) -> ReferenceStore:
    """The started store of references, with those of the configured file."""
    store = pick_references(settings)
    stack.push_async_callback(store.close)
    await store.start()
    if settings.references.file is not None:
        await load_references(settings.references.file, store)
    return store


def error_reply(error: ServiceError, request_id: str) -> JSONResponse:
    """The one shape of every failure. Never holds what the caller sent."""
    details = {name: value for name, value in error.details.items() if name != "retry_after_s"}
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(error.details.get("retry_after_s") or 1)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return _reply(STATUS[type(error)], error.code, error.message, request_id, error.retryable, details, headers)


def _reply(
    status: int,
    code: str,
    message: str,
    request_id: str,
    retryable: bool,
    details: dict[str, Any],
    headers: dict[str, str],
) -> JSONResponse:
    detail = ErrorDetail(
        code=code, message=message, request_id=request_id, retryable=retryable, details=details or None
    )
    body = ErrorReply(error=detail).model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, status, headers)


def _watch(gate: Gate, engine: Engine, watchdog: Health) -> None:
    metrics, admission = gate.metrics, gate.admission
    metrics.watch("gram_prompts_inside", "Engine prompts of the requests inside.", lambda: admission.held)
    metrics.watch("gram_tokens_inside", "Their tokens, guessed from texts.", lambda: admission.held_tokens)
    metrics.watch("gram_requests_in_line", "Requests that wait for room.", lambda: admission.in_line)
    metrics.watch("gram_requests_inside", "Requests inside.", lambda: admission.running)
    metrics.watch("gram_engine_unfinished", "Prompts in the engine.", lambda: engine.progress.unfinished)
    metrics.watch("gram_engine_stalled_seconds", "Time with work but without output.", lambda: watchdog.stalled_s)
    metrics.watch("gram_ready", "1 while requests are welcome.", lambda: float(watchdog.is_ready))


async def _publish_health(gate: Gate, store: RewardStore) -> None:
    """Keep the gauges of score health up to date, as long as the service runs."""
    wanted, shown = gate.settings.score_health, gate.metrics.queues
    while True:
        await asyncio.sleep(wanted.refresh_s)
        try:
            shown.keep(await gate.monitor.refresh(store, wanted.metric_queues, shown.publish))
        except Exception:
            log.exception("score health could not be published; it is tried again in %.0f s", wanted.refresh_s)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def known(request: Request, error: ServiceError) -> Response:
        if error.code not in request.state.call.seen.failures:  # an item's failure is noted where it is judged
            request.state.call.seen.failures.append(error.code)
        if STATUS[type(error)] == 500:
            log.error("request %s: %s", request.state.call.request_id, error.message)
        return error_reply(error, request.state.call.request_id)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_reply(explain(error.errors()), request.state.call.request_id)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        """What the framework refuses by itself: unknown paths and methods, bodies that are no JSON."""
        ours: dict[int, ServiceError] = {
            400: InvalidJson("The body is not valid JSON."),
            404: NotFound("There is no such path; GET /docs lists them."),
        }
        request_id = request.state.call.request_id
        if error.status_code in ours:
            return error_reply(ours[error.status_code], request_id)
        message, headers = "Use another method here.", dict(error.headers or {})
        return _reply(error.status_code, "method_not_allowed", message, request_id, False, {}, headers)

    @app.exception_handler(ClientGone)
    @app.exception_handler(ClientDisconnect)  # while the body was read
    async def gone(request: Request, error: Exception) -> Response:
        """Nobody reads this; the status is for logs and metrics."""
        return Response(status_code=CLIENT_GONE)


def explain(found: Sequence[Any]) -> ServiceError:
    """Validation errors as one of ours: where, which rule, what to send; never the value."""
    if any(error["type"] == "json_invalid" for error in found):
        return InvalidJson("The body is not valid JSON.")
    fields = [
        {"field": _location(error["loc"]), "code": error["type"], "message": _message(error)} for error in found[:10]
    ]
    first = fields[0]
    problem = InvalidInput(f"{first['field']}: {first['message']}.")
    problem.details = {"errors": fields}
    return problem


def _location(parts: Sequence[str | int]) -> str:
    """``body.items[3].response``. An unknown field's name is the caller's text, so it is cut and made printable."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in SHAPE_TAGS:
            path += ("." if path else "") + part.encode("ascii", "backslashreplace").decode()[:64]
    return path


def _message(error: dict[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    return "unknown field" if error["type"] == "extra_forbidden" else text
