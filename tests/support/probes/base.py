"""What a probe is, and what most of them look at: the reply, the engine's prompts, the metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.engines.base import EngineRequest
from service.engines.fake import GRAM_R2_ANSWER, RM_R1_ANSWER, decode_bytes
from service.errors import ServiceError
from tests.support.serving import Api, options

Check = Callable[[Api], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt. ``check`` raises `AssertionError` where the service does not do what is promised."""

    name: str
    check: Check


@dataclass(frozen=True, slots=True)
class Family:
    """Probes of one kind of attack. ``defect`` switches the defence off, or puts a known mistake in its place: then at
    least one probe must fail. ``overrides`` are settings of the service under attack."""

    number: str
    name: str
    promise: str
    probes: tuple[Probe, ...]
    defect: Callable[[], AbstractContextManager[object]]
    overrides: Mapping[str, Any] = field(default_factory=dict)


CAUGHT = (AssertionError, ServiceError, TimeoutError)
"""How a check fails: by its assertion, or by an error of ours that it does not expect."""


async def failing(probes: Iterable[Probe], api: Api, *, first: bool = False) -> list[str]:
    """Names of the probes that fail, each with its reason; ``first`` is enough where one is."""
    failed = []
    for probe in probes:
        try:
            await probe.check(api)
        except CAUGHT as error:
            failed.append(f"{probe.name}: {str(error) or type(error).__name__}"[:400])
            if first:
                break
    return failed


def writing(request: EngineRequest, letter: str = "B") -> str:
    """A written judgment in the grammar that the prompt asks for; by default the response shown second is better."""
    form = RM_R1_ANSWER if "Chatbot A" in decode_bytes(request.prompt_ids) else GRAM_R2_ANSWER
    return form.format(verdict=letter)


def watched(**changes: Any) -> Any:
    """Options of a fake engine that keeps what it is asked, and writes for every family."""
    return options(**({"keep_requests": True, "script": writing} | changes))


async def asked(api: Api, route: str, body: Any, **headers: str) -> tuple[httpx.Response, list[EngineRequest]]:
    """The reply, and what the engine was asked for it."""
    api.engine.requests.clear()
    reply = await api.post(route, body, **headers)
    return reply, list(api.engine.requests)


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """Why there is no answer; that there is one is the failure of a probe."""
    assert reply.status_code >= 400, f"it was answered: {reply.text[:300]}"
    error: dict[str, Any] = reply.json()["error"]
    return error


def texts_of(requests: Iterable[EngineRequest]) -> list[str]:
    """The prompts as text, control tokens left out."""
    return [decode_bytes(request.prompt_ids) for request in requests]


def flags_in(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Counts by code and place."""
    return {(flag["code"], flag["where"]): flag["count"] for flag in rows}


def counted(api: Api, judge: str, code: str, where: str) -> float:
    """The metric of flags."""
    value: float = api.app.state.gate.metrics.judging.flags.value(judge, code, where)
    return value


async def flagged(api: Api, text: str, code: str, *, judge: str = "gram", count: int | None = None) -> None:
    """As either response, the text is judged as it stands, in both orders, and flagged in the reply and the metrics."""
    for place, other in (("a", "b"), ("b", "a")):
        before = counted(api, judge, code, place)
        body = {"judge": judge, "prompt": "What is 7 + 5?", f"response_{place}": text, f"response_{other}": "It is 12."}
        reply, requests = await asked(api, "/compare", body)
        assert reply.status_code == 200, reply.text[:300]
        found = flags_in(reply.json()["flags"]).get((code, place), 0)
        assert found == count if count is not None else found >= 1, (place, reply.json()["flags"])
        assert counted(api, judge, code, place) == before + found
        prompts = texts_of(requests)
        assert len(prompts) >= 2
        assert all(text in prompt for prompt in prompts), "the text was changed on its way to the judge"
