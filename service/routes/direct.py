"""A route's endpoint called without FastAPI's machinery for each request; what it reads stays FastAPI's.

FastAPI keeps three exit stacks for each request, solves dependencies as if each were a request of its own, and
validates replies that are instances of their models already: 150 us beside some 20 for reading and judging a body. The
routes here have one body, parameters that are mostly absent, and what `LOOK_UPS` finds; their description and the
validation of bodies and parameters go through the same fields that FastAPI made of them, and replies write themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField, get_missing_field_error
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect

from service.schemas.wire import parse_json, written

LookUps = Mapping[str, Callable[[Request], object]]


class Asked(Request):
    """A request whose body is read as one, not as a stream that is put together again."""

    _whole: bytes | None = None

    async def body(self) -> bytes:
        """All of it. Raises `ClientDisconnect`."""
        if self._whole is None:
            parts: list[bytes] = []
            more = True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
            self._whole = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._whole


class Direct:
    """One endpoint: ``await direct(request)`` is its reply.

    Raises `InvalidJson`, and FastAPI's `RequestValidationError` for bodies and parameters that are not as described.
    """

    def __init__(self, described: Dependant, look_ups: LookUps, reply: ModelField | None) -> None:
        assert described.call is not None
        self._endpoint: Callable[..., Awaitable[Any]] = described.call
        (self._body,) = described.body_params
        self._own = described.request_param_name
        self._look_ups = tuple(look_ups.items())
        self._described = described
        self._defaults = {one.name: one.default for one in (*described.header_params, *described.query_params)}
        self._headers = frozenset(one.alias.replace("_", "-").lower().encode() for one in described.header_params)
        self._reply = reply

    @staticmethod
    def fits(described: Dependant) -> bool:
        """Whether the endpoint takes one body and besides it only what may be absent."""
        optional = [*described.header_params, *described.query_params]
        required = any(one.field_info.is_required() for one in optional)
        others = described.path_params or described.cookie_params or described.response_param_name
        return len(described.body_params) == 1 and not required and not others

    async def __call__(self, request: Request) -> Response:
        values: dict[str, Any] = {name: find(request) for name, find in self._look_ups}
        if self._own:
            values[self._own] = request
        values |= self._parameters(request) if self._defaults else {}
        values[self._body.name] = self._validated(await request.body())
        reply = await self._endpoint(**values)
        if isinstance(reply, Response):
            return reply
        content = written(reply)
        if content is None:
            assert self._reply is not None
            content = self._reply.serialize_json(reply)
        return Response(content, media_type="application/json")

    def _validated(self, sent: bytes) -> Any:
        value = parse_json(sent) if sent else None
        if value is None:
            raise RequestValidationError([get_missing_field_error(("body",))])
        body, errors = self._body.validate(value, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        return body

    def _parameters(self, request: Request) -> dict[str, Any]:
        """Headers and query, which most requests have nothing of."""
        if not request.scope["query_string"] and self._headers.isdisjoint(name for name, _ in request.scope["headers"]):
            return self._defaults
        query, errors = request_params_to_args(self._described.query_params, request.query_params)
        headers, more = request_params_to_args(self._described.header_params, request.headers)
        if errors or more:
            raise RequestValidationError([*errors, *more])
        return headers | query
