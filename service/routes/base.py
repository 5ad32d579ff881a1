"""What every route goes through before its own code: key and scope, media type, deadline, the caller's presence.

All of it happens before the body is parsed, so a caller without a key costs nothing. FastAPI's own hook for this is a
route class.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from functools import partial
from inspect import iscoroutinefunction
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from service.admission import Running
from service.context import Call, Gate, Service
from service.errors import BodyTooLarge, DeadlineExceeded, InvalidInput, UnsupportedMediaType, WeightsChanged
from service.presence import PRESENCE, Awaited, Presence, unless_gone
from service.routes.direct import Asked, Direct, LookUps
from service.types import Scope

DEADLINE_HEADER = "X-Deadline-Ms"
DEADLINE_NAME = DEADLINE_HEADER.lower().encode()
WRONG_TYPE = "Send the body as 'Content-Type: application/json'."
REQUEST = "request_at_hand"
BEGINNINGS = 3

KEY_DESCRIPTION = "A key with the route's scope; or as the password of HTTP Basic, for callers that can set only a URL."

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route whose endpoint gets what stands at hand without FastAPI's solving of dependencies (`_looked_up`), and
    which reads no more of a body than the service allows."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = _served(self.get_route_handler()) if self.is_direct else _bounded(self.app)

    @property
    def is_direct(self) -> bool:
        """Whether `Direct` serves it."""
        return self.status_code in (None, 200) and Direct.fits(_looked_up(self.dependant)[0])

    def get_route_handler(self) -> Handler:
        described = self.dependant
        looked_up, look_ups = _looked_up(described)
        if self.is_direct:
            return Direct(looked_up, look_ups, self.response_field).__call__
        self.dependant = _called_with(looked_up, look_ups)
        try:
            return super().get_route_handler()
        finally:
            self.dependant = described


class Shortcut:
    """In front of the application's routing: a direct route is found by its path and called, without the middlewares
    that FastAPI's own routes need and without matching one pattern after the other."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        direct = [route for route in routes if isinstance(route, Route) and route.is_direct]
        self._routes = {(method, route.path): route for route in direct for method in route.methods}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
        else:
            scope["route"] = route
            await route.app(scope, receive, send)


def guarded(scope: Scope | None, *, patient: bool = False) -> type[APIRoute]:
    """A route class for callers with `scope` (None: any known key). Patient ones wait for room (`Call.patient`)."""

    class GuardedRoute(Route):
        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                gate, call, caller = current_gate(request), current_call(request), _presence(request)
                call.principal = gate.authenticator.authenticate(call.header(b"authorization"))
                call.principal.require(scope)
                call.deadline_s, call.patient = deadline_s(call, gate, patient), patient
                async with gate.admission.deadline(call.deadline_s) as running:
                    if request.method == "POST" and scope == "score":
                        gate.admission.turn_away(call.principal.key_id, patient)
                    if request.method in ("POST", "PUT", "PATCH"):
                        await _read_body(request, call, caller, running, gate.settings.server.body_timeout_s)
                    return await unless_gone(caller, _on_present_weights(inner, request))

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
    call: Call = request.scope["state"]["call"]
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


def _looked_up(described: Dependant) -> tuple[Dependant, LookUps]:
    """The endpoint without the dependencies that describe or stand at hand, and the latter by parameter."""
    found = {one.name: LOOK_UPS[one.call] for one in described.dependencies if one.name and one.call in LOOK_UPS}
    others = [one for one in described.dependencies if one.call not in LOOK_UPS and one.call not in _DESCRIBING]
    assert iscoroutinefunction(described.call), "plain endpoints would block the event loop here"
    return replace(described, dependencies=others), found


def _called_with(described: Dependant, look_ups: LookUps) -> Dependant:
    """The endpoint as FastAPI calls it, where `Direct` cannot.

    FastAPI solves each dependency as if it were a request of its own, with headers, cookies and a hop to a worker
    thread for a plain function: for five of them, which read three attributes, that is most of a request's time.
    """
    endpoint, own = described.call, described.request_param_name
    assert endpoint is not None

    async def call(**values: Any) -> Any:
        request = values[own] if own else values.pop(REQUEST)
        return await endpoint(**values, **{name: look_up(request) for name, look_up in look_ups.items()})

    return replace(described, call=call, request_param_name=own or REQUEST)


def _served(handler: Handler) -> ASGIApp:
    """The reply of a handler, or what the application's own handlers make of its error."""

    async def serve(scope: ASGIScope, receive: Receive, send: Send) -> None:
        request = Asked(scope, _within_limit(scope, receive), send)
        try:
            response = await handler(request)
        except Exception as error:
            known = scope["app"].exception_handlers
            answer = next((known[kind] for kind in type(error).__mro__ if kind in known), None)
            if answer is None:
                raise
            response = await answer(request, error)
        await response(scope, receive, send)

    return serve


def _bounded(app: ASGIApp) -> ASGIApp:
    async def serve(scope: ASGIScope, receive: Receive, send: Send) -> None:
        await app(scope, _within_limit(scope, receive), send)

    return serve


def _within_limit(scope: ASGIScope, receive: Receive) -> Receive:
    """Raises `BodyTooLarge` to whoever reads more of a body than the service allows. One whose length was announced is
    no longer than that, and the announcement was read before."""
    if scope["state"]["call"].announced_bytes is not None:
        return receive
    limit, size = scope["app"].state.gate.settings.limits.max_body_bytes, 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise BodyTooLarge.beyond(limit)
        return message

    return bounded


def deadline_s(call: Call, gate: Gate, patient: bool) -> float:
    """What the caller allows, or the setting. Raises `InvalidInput`."""
    limits, wires = gate.settings.limits, gate.settings.compat
    header = call.header(DEADLINE_NAME)
    if header is None:
        return (wires.deadline_ms if patient else limits.default_deadline_ms) / 1000
    if not (header.isascii() and header.isdigit() and len(header) <= 9 and 1 <= int(header) <= limits.max_deadline_ms):
        message = f"Send {DEADLINE_HEADER} as whole milliseconds from 1 to {limits.max_deadline_ms}."
        raise InvalidInput(message, field=DEADLINE_HEADER)
    return int(header) / 1000


async def _read_body(request: Request, call: Call, caller: Presence, running: Running, seconds: float) -> None:
    """Leaves the body in the request. Routes without a body need no media type; compressed bodies are refused, so that
    the limit on what is sent is the limit on what is read."""
    if (call.header(b"content-encoding") or "").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body uncompressed, without a Content-Encoding.")
    media_type = (call.header(b"content-type") or "").partition(";")[0].strip().lower()
    if media_type not in ("", "application/json"):
        raise UnsupportedMediaType(WRONG_TYPE)
    if caller.has_sent_all:
        body = await request.body()
    else:
        late = DeadlineExceeded("The request body did not arrive in time; send it faster.")
        body = await running.within(seconds, request.body(), late)
    if body and not media_type:
        raise UnsupportedMediaType(WRONG_TYPE)


def _presence(request: Request) -> Presence:
    """As the connection tells it, where this project's server made it; else by ASGI's own message."""
    told: Presence | None = request.scope["state"].get(PRESENCE)
    return told if told is not None else Awaited(partial(_gone, request))


async def _gone(request: Request) -> None:
    """Returns when the caller has closed the connection (the body must have been read)."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
