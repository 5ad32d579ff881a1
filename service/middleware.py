"""Around every request: its id, its clock, the limit on its body, and the one place where it is recorded and logged."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import secrets
from collections.abc import Callable
from contextlib import suppress

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import Call
from service.errors import BadRequest, BodyTooLarge, InternalError, ServiceError
from service.metrics import Observation
from service.scoring import Trace
from service.spans import NO_TRACING, RequestSpan, Tracing, Value
from service.spans import REQUEST_ID as CURRENT_ID

log = logging.getLogger("gram.access")

REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_IDS = random.Random(secrets.randbits(256))
"""For ids of ours, which are no secrets: asking the system for each would be a fiftieth of a cached answer's time."""
CLIENT_GONE = 499
LINGER_S = 5.0
LINGER_BYTES = 64 * 2**20
"""How long, and how much of it, the rest of a refused body is read and thrown away."""

Refuse = Callable[[ServiceError, str], Response]
Record = Callable[[Observation], None]


class Application(FastAPI):
    """With `CallMiddleware` outermost, which answers for bugs too: Starlette's own net around it would catch nothing,
    and every message of every reply would go through it."""

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        assert isinstance(stack, ServerErrorMiddleware)
        return stack.app


class CallMiddleware:
    """`record` is told what each request leaves behind; `refuse` writes the error reply for what fails here: bodies
    that are too large, and bugs."""

    def __init__(
        self, app: ASGIApp, record: Record, max_body_bytes: int, refuse: Refuse, tracing: Tracing = NO_TRACING
    ) -> None:
        self._tracing = tracing
        self._app = app
        self._tell = record
        self._max_body_bytes = max_body_bytes
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # of one that came twice the first counts
        call = Call(_request_id(headers.get(REQUEST_ID)), headers, trace=Trace(tracing=self._tracing))
        scope.setdefault("state", {})["call"] = call
        token = CURRENT_ID.set(call.request_id)
        try:
            with self._tracing.request(headers) as span:
                problem = self._problem_with(scope, call)
                await self._serve(scope, receive, send, call, span, problem)
            if problem is not None:
                await _linger(receive, send)
        finally:
            CURRENT_ID.reset(token)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, call: Call, span: RequestSpan, problem: ServiceError | None
    ) -> None:
        """The reply, or that to a request with a `problem`, whose last message `_linger` sends."""
        status = CLIENT_GONE  # stays so when nobody was left to reply to

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (REQUEST_ID, call.request_id.encode()),
                    (b"server-timing", call.server_timing().encode()),
                ]
            elif problem is not None:
                message = {**message, "more_body": True}
            await send(message)

        try:
            if problem is not None:
                reply = self._refuse(problem, call.request_id)
                reply.headers["connection"] = "close"  # where its body ends is not known, or it is not worth reading
                await reply(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("request %s failed", call.request_id)
            if status != CLIENT_GONE:  # the reply has begun; the server cuts the connection
                raise
            bug = InternalError("An error of ours; report it with the request id.")
            await self._refuse(bug, call.request_id)(scope, receive, send_with_headers)
        finally:
            self._record(call, status, scope, span)

    def _problem_with(self, scope: Scope, call: Call) -> ServiceError | None:
        """Of two hosts, or of a body announced too large, twice, or in a coding that is not undone: a proxy that
        believes the other announcement would take what follows for a request of somebody else (RFC 9112, 6.3)."""
        if b"transfer-encoding" in call.headers:
            codings = [value.strip().lower() for name, value in scope["headers"] if name == b"transfer-encoding"]
            if codings != [b"chunked"] or b"content-length" in call.headers:
                message = "Send the body with Content-Length or with Transfer-Encoding: chunked, and nothing else."
                return BadRequest(message)
        if len(call.headers) < len(scope["headers"]) and [name for name, _ in scope["headers"]].count(b"host") > 1:
            return BadRequest("Send one Host header.")
        limit = self._max_body_bytes
        return BodyTooLarge.beyond(limit) if (call.announced_bytes or 0) > limit else None

    def _record(self, call: Call, status: int, scope: Scope, span: RequestSpan) -> None:
        """Texts and keys are never logged; the path is logged as its template."""
        seen = call.finish(status, getattr(scope.get("route"), "path", "unmatched"))
        self._tell(seen)
        if self._tracing is not NO_TRACING:
            span.end(f"{scope['method']} {seen.route}", _attributes(call, scope["method"]), failed=status >= 500)
        if log.isEnabledFor(logging.INFO):
            line = {
                "request_id": call.request_id,
                "key": call.principal.key_id,
                "method": scope["method"],
                "route": seen.route,
                "status": status,
                "ms": round(1000 * seen.seconds, 1),
                "judge": seen.judge,
                "comparisons": seen.usage.comparisons,
            }
            log.info("%s", AsJson(line), extra={"fields": line})


async def _linger(receive: Receive, send: Send) -> None:
    """End a refused request, and with it the connection, when the rest of it has come. Of a connection closed at once
    the system throws away the reply with what still arrives, and a caller who sends to the end never learns why."""
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            more = True
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})


class AsJson(dict[str, object]):
    """Written out only where a log line is for people: the other form writes the fields itself."""

    def __str__(self) -> str:
        return json.dumps(self)


def _attributes(call: Call, method: str) -> dict[str, Value | None]:
    """What a span says of a request: names as OpenTelemetry's conventions have them, or ours."""
    seen, version = call.seen, call.seen.version
    return {
        "http.request.method": method,
        "http.route": seen.route,
        "http.response.status_code": seen.status,
        "error.type": ",".join(sorted(set(seen.failures))) or None,
        "gram.request_id": call.request_id,
        "gram.key": call.principal.key_id,
        "gram.judge": seen.judge,
        "gram.weight_version": version.weight_version if version else None,
        "gram.template_hash": version.template_hash if version else None,
        "gram.comparisons": seen.usage.comparisons,
        "gram.prompt_tokens": seen.usage.prompt_tokens,
        "gram.cached_tokens": seen.usage.cached_tokens,
        "gram.completion_tokens": seen.usage.completion_tokens,
    }


def _request_id(sent: bytes | None) -> str:
    """The caller's id if it is harmless in logs and headers, else one of ours."""
    return sent.decode() if sent is not None and _GOOD_ID.fullmatch(sent) else f"{_IDS.getrandbits(64):016x}"
