"""Judging in bulk through a running service: `POST /rationale`, a pair a request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from service.judgment import Ask
from service.types import Comparison, Rationale, Verdict
from training.generation.outcomes import Failure, GenerationError
from training.generation.verdicts import verdict_of

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
DEADLINE = {"X-Deadline-Ms": "300000"}


class ServedJudge:
    """A judge of a running service. Its votes are the service's, which are never seeded: a file of them can be gone on
    with, but another run draws other votes."""

    def __init__(self, client: httpx.AsyncClient, version: Mapping[str, Any]) -> None:
        self._client = client
        self._version = version

    @classmethod
    async def connect(cls, client: httpx.AsyncClient, judge: str | None = None) -> ServedJudge:
        """The service's judge of that name, or its first that writes. Raises `GenerationError`."""
        try:
            reply = await client.get("/models")
            reply.raise_for_status()
        except httpx.HTTPError as error:
            raise GenerationError(f"No service answers at {client.base_url} ({error}); start it.") from error
        models = [model for model in reply.json()["judges"] if model["writes_rationale"]]
        found = next((model for model in models if judge in (None, model["name"])), None)
        if found is None:
            raise GenerationError(f"The service has no judge {judge or ''} that writes rationales; see GET /models.")
        return cls(client, {name: found[name] for name in ("name", "weight_version", "template_hash")})

    @property
    def made_by(self) -> Mapping[str, Any]:
        return {"service": True, **self._version}

    async def judge(self, key: str, comparison: Comparison, ask: Ask, round: int) -> Verdict | Failure:
        turns = [{"role": message.role, "content": message.content} for message in comparison.prompt.messages]
        shown = {"prompt": turns, "response_a": comparison.first.text, "response_b": comparison.second.text}
        how = {name: getattr(ask, name) for name in ("votes", "stop_when_decided", "max_rationale_tokens")}
        body = {"judge": self._version["name"], **how, **shown}
        reply = await self._post(body)
        found = reply.json()
        if reply.status_code != 200:
            error = found["error"]
            written = (error.get("details") or {}).get("rationales", ())
            return Failure(error["code"], error["message"], tuple(Rationale(**one) for one in written))
        return verdict_of(found)

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        """The reply, asked again while the service says "later". Raises `GenerationError` when it keeps saying so."""
        said = ""
        for attempt in range(ATTEMPTS):
            pause = FIRST_PAUSE_S * 2**attempt
            try:
                reply = await self._client.post("/rationale", json=body, headers=DEADLINE)
            except httpx.TransportError as error:
                said = f"{type(error).__name__} {error}".strip()
            else:
                if reply.status_code in (401, 403, 404):
                    raise GenerationError(f"The service refused: {reply.json()['error']['message']}")
                if reply.status_code != 503:
                    return reply
                said = reply.json()["error"]["message"]
                pause = max(pause, float(reply.headers.get("Retry-After", 0)))
            await asyncio.sleep(pause)
        raise GenerationError(f"The service does not answer ({said}); what was judged is kept, start again to go on.")
