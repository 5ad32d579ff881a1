"""POST /rationale: the verdict with the judge's own words, whole or as they are written."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from service.context import Call, Gate, Service
from service.costs import of_pairs
from service.errors import InternalError, InvalidVerdict, ServiceError
from service.judge import Judge
from service.judgment import Ask
from service.presence import pumped
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.schemas.replies import ErrorDetail, RationaleReply, rationale_reply, written_details
from service.schemas.requests import RationaleRequest
from service.streaming import RationaleText

log = logging.getLogger("gram.rationale")

router = APIRouter(route_class=guarded("score"), dependencies=DOCUMENTED, tags=["judging"])

STREAM_DESCRIPTION = (
    "With `stream: true`: server-sent events `text` {order, vote, text}, then `verdict` (the reply) or `error`."
)


@router.post(
    "/rationale",
    response_model=RationaleReply,
    responses={200: {"content": {"text/event-stream": {}}, "description": STREAM_DESCRIPTION}},
)
async def rationale(
    body: RationaleRequest, service: TheService, gate: TheGate, call: TheCall
) -> RationaleReply | Response:
    """Judge one pair with written rationales, `votes` of them in each order."""
    judge = service.scorer.judge(body.judge, writes_rationale=True)
    if body.stream:
        return await _stream(pumped(_events(service, gate, call, judge, body, call.left_s)), call)
    comparison = body.comparison()
    async with call.judging(gate, judge, of_pairs([comparison], body.votes)):
        (outcome,) = await service.scorer.compare(
            judge,
            [comparison],
            votes=body.votes,
            stop_when_decided=body.stop_when_decided,
            max_rationale_tokens=body.max_rationale_tokens,
            on_budget=body.on_budget,
            salt=call.principal.cache_salt,
            trace=call.trace,
        )
    call.saw_verdicts([outcome])
    if isinstance(outcome, ServiceError):
        raise _shown(outcome)
    return rationale_reply(outcome, judge.version)


class EventStream(StreamingResponse):
    """Server-sent events whose source is closed however the connection ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _stream(events: AsyncGenerator[bytes, None], call: Call) -> EventStream:
    """The reply once its first event is there: what fails before that is an ordinary error with its status."""
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise

    async def rest() -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            yield first
            try:
                async for event in events:
                    yield event
            except ServiceError as error:
                yield _error_event(_shown(error), call)
            except Exception:
                log.exception("stream %s failed", call.request_id)
                yield _error_event(InternalError("An error of ours; report it with the request id."), call)

    return EventStream(rest())


async def _events(
    service: Service, gate: Gate, call: Call, judge: Judge, body: RationaleRequest, left_s: float
) -> AsyncGenerator[bytes, None]:
    """Runs as long as the stream does, under the request's deadline and in its share of admission."""
    started, comparison = time.perf_counter(), body.comparison()
    load = of_pairs([comparison], body.votes)
    async with gate.admission.deadline(left_s), call.judging(gate, judge, load):
        ask = Ask(
            body.votes,
            body.stop_when_decided,
            call.principal.cache_salt,
            body.max_rationale_tokens,
            body.on_budget,
        )
        written = service.scorer.stream_rationales(judge, comparison, ask, trace=call.trace)
        with call.trace.tracing.stage("engine"):
            async with aclosing(written) as pieces:
                async for piece in pieces:
                    if isinstance(piece, RationaleText):
                        yield _event("text", {"order": piece.order, "vote": piece.vote, "text": piece.text})
                    else:
                        call.trace.engine_s = time.perf_counter() - started
                        call.saw_verdicts([piece])
                        yield _event("verdict", rationale_reply(piece, judge.version).model_dump(mode="json"))


def _shown(error: ServiceError) -> ServiceError:
    """Rationales without a verdict are no judgment, but whoever asked for them may read them, in the details."""
    if isinstance(error, InvalidVerdict):
        error.details |= written_details(error.rationales)
    return error


def _error_event(error: ServiceError, call: Call) -> bytes:
    call.seen.failures.append(error.code)
    detail = ErrorDetail(
        code=error.code,
        message=error.message,
        request_id=call.request_id,
        retryable=error.retryable,
        details=error.details or None,
    )
    return _event("error", detail.model_dump(mode="json"))


def _event(name: str, data: dict[str, Any]) -> bytes:
    """ASCII JSON: a line separator inside a text (U+2028, U+0085) must not break the frame."""
    return format_sse_event(event=name, data_str=json.dumps(data, allow_nan=False))
