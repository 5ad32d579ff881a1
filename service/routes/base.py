"""What every route goes through before its own code: key and scope, media type, deadline, the caller's presence.

All of it happens before the body is parsed, so a caller without a key costs nothing. FastAPI's own hook for this is a
route class.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from service.admission import unless_gone
from service.context import Call, Gate, Service
from service.errors import DeadlineExceeded, InvalidInput, UnsupportedMediaType, WeightsChanged
from service.types import Scope

DEADLINE_HEADER = "X-Deadline-Ms"
REQUEST = "request_at_hand"
BEGINNINGS = 3

KEY_DESCRIPTION = "A key with the route's scope; or as the password of HTTP Basic, for callers that can set only a URL."

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route whose endpoint gets what stands at hand without FastAPI's solving of dependencies (`_looked_up`)."""

    def get_route_handler(self) -> Handler:
        described = self.dependant
        self.dependant = _looked_up(described)
        try:
            return super().get_route_handler()
        finally:
            self.dependant = described


def guarded(scope: Scope | None, *, patient: bool = False) -> type[APIRoute]:
    """A route class for callers with `scope` (None: any known key). Patient ones wait for room (`Call.patient`)."""

    class GuardedRoute(Route):
        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                gate, call = current_gate(request), current_call(request)
                call.principal = gate.authenticator.authenticate(request.headers.get("authorization"))
                call.principal.require(scope)
                call.deadline_s, call.patient = deadline_s(request, gate, patient), patient
                async with gate.admission.deadline(call.deadline_s):
                    if request.method == "POST" and scope == "score":
                        gate.admission.turn_away(call.principal.key_id, patient)
                    if request.method in ("POST", "PUT", "PATCH"):
                        await _read_body(request, gate.settings.server.body_timeout_s)
                    return await unless_gone(_gone(request), _on_present_weights(inner, request))

            return handle

    return GuardedRoute


async def _on_present_weights(inner: Handler, request: Request) -> Response:
    """The route's reply. Begun again when weights are changed between its choice of a judge and its judging, which
    leaves nothing behind that counts: scores enter a queue only after they are judged."""
    for _ in range(BEGINNINGS - 1):
        try:
            return await inner(request)
        except WeightsChanged:
            current_call(request).begin_again()
    return await inner(request)


def current_gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


def current_call(request: Request) -> Call:
    call: Call = request.state.call
    return call


def current_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _documented(x_deadline_ms: Annotated[int | None, Header(ge=1, le=600_000)] = None) -> None:
    """X-Deadline-Ms is read in the route class; this puts it into the API description."""


TheService = Annotated[Service, Depends(current_service)]
TheGate = Annotated[Gate, Depends(current_gate)]
TheCall = Annotated[Call, Depends(current_call)]
DOCUMENTED = [Security(HTTPBearer(auto_error=False, description=KEY_DESCRIPTION)), Depends(_documented)]
"""Dependencies that only describe: keys and deadlines are checked before any dependency runs."""

LOOK_UPS: Mapping[object, Callable[[Request], object]] = {
    one: one for one in (current_service, current_gate, current_call)
}
_DESCRIBING = frozenset(dependency.dependency for dependency in DOCUMENTED)


def _looked_up(described: Dependant) -> Dependant:
    """The endpoint as it is called, of the one that the API description shows.

    FastAPI solves each dependency as if it were a request of its own, with headers, cookies and a hop to a worker
    thread for a plain function: for five of them, which read three attributes, that is most of a request's time.
    """
    endpoint, own = described.call, described.request_param_name
    found = {one.name: LOOK_UPS[one.call] for one in described.dependencies if one.name and one.call in LOOK_UPS}
    others = [one for one in described.dependencies if one.call not in LOOK_UPS and one.call not in _DESCRIBING]
    assert endpoint is not None
    assert iscoroutinefunction(endpoint), "plain endpoints would block the event loop here"

    async def call(**values: Any) -> Any:
        request = values[own] if own else values.pop(REQUEST)
        return await endpoint(**values, **{name: look_up(request) for name, look_up in found.items()})

    return replace(described, call=call, dependencies=others, request_param_name=own or REQUEST)


def deadline_s(request: Request, gate: Gate, patient: bool) -> float:
    """What the caller allows, or the setting. Raises `InvalidInput`."""
    limits, wires = gate.settings.limits, gate.settings.compat
    header = request.headers.get(DEADLINE_HEADER)
    if header is None:
        return (wires.deadline_ms if patient else limits.default_deadline_ms) / 1000
    if not (header.isascii() and header.isdigit() and len(header) <= 9 and 1 <= int(header) <= limits.max_deadline_ms):
        message = f"Send {DEADLINE_HEADER} as whole milliseconds from 1 to {limits.max_deadline_ms}."
        raise InvalidInput(message, field=DEADLINE_HEADER)
    return int(header) / 1000


async def _read_body(request: Request, seconds: float) -> None:
    """Leaves the body in the request. Routes without a body need no media type; compressed bodies are refused, so that
    the limit on what is sent is the limit on what is read."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body uncompressed, without a Content-Encoding.")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wrong = UnsupportedMediaType("Send the body as 'Content-Type: application/json'.")
    if media_type not in ("", "application/json"):
        raise wrong
    try:
        async with asyncio.timeout(seconds) as timer:
            if await request.body() and not media_type:
                raise wrong
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise DeadlineExceeded("The request body did not arrive in time; send it faster.") from error


async def _gone(request: Request) -> None:
    """Returns when the caller has closed the connection (the body must have been read)."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
