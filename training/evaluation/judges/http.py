"""A running service as judge: batches to ``POST /compare``, a few at a time by whoever calls.

What is asked again, and what is not: a connection that breaks, a service that is overloaded, draining or out of time is
asked again with growing pauses (as its Retry-After says); after that the evaluation stops, and goes on where it stopped
when it is started again. A judgment that failed is *not* asked again: drawing until the answer parses would count a
judge by its lucky tries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx

from service.types import JudgeVersion, Usage, Verdict
from training.data.pairs import Pair, as_row
from training.evaluation.items import Failure
from training.evaluation.judges.base import EvaluationError, refusal, version_name

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
_TOO_MUCH = (400, 413, 422, 504)
"""Replies to a batch that may concern one of its pairs: the batch is halved until it is known which."""
VERDICT_FIELDS = ("p_first", "margin", "p_ab", "p_ba", "consistent")
_LATER = ("overloaded", "draining", "engine_dead", "store_unavailable", "unavailable", "deadline_exceeded")


class ServiceJudge:
    """One judge of a running service. Made by `connect`."""

    def __init__(self, client: httpx.AsyncClient, judge: JudgeVersion, version: str, votes: int, deadline_s: float):
        self._client = client
        self._judge = judge
        self._votes = votes
        self._headers = {"X-Deadline-Ms": str(int(deadline_s * 1000))}
        self.version = version

    @classmethod
    async def connect(
        cls, client: httpx.AsyncClient, judge: str | None = None, votes: int = 1, deadline_s: float = 300.0
    ) -> ServiceJudge:
        """The service's judge of that name, or its default one. Raises `EvaluationError` where it cannot be asked."""
        where = str(client.base_url)
        try:
            reply = await client.get("/models")
        except httpx.HTTPError as error:
            raise EvaluationError(f"No service answers at {where} ({error}); start it, or correct --url.") from error
        if reply.status_code != 200:
            raise EvaluationError(f"The service at {where} refused: {_message(reply)}")
        body = reply.json()
        models = {model["name"]: model for model in body["judges"]}
        found = models.get(judge) if judge else next((m for m in models.values() if m["default"]), None)
        if found is None:
            raise EvaluationError(f"The service has no judge {judge}; it has {', '.join(models)}.")
        version = JudgeVersion(found["name"], found["weight_version"], found["template_hash"])
        return cls(client, version, version_name(version, body["engine"], body["dtype"], votes), votes, deadline_s)

    @property
    def name(self) -> str:
        return self._judge.judge

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        outcomes: list[Verdict | Failure | None] = [refusal(pair) for pair in pairs]
        asked = [i for i, outcome in enumerate(outcomes) if outcome is None]
        answers = await self._ask([pairs[i] for i in asked])
        for i, answer in zip(asked, answers, strict=True):
            outcomes[i] = answer
        return [outcome for outcome in outcomes if outcome is not None]

    async def _ask(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        """One batch; halved where the service refuses it for what may be one pair's fault."""
        if not pairs:
            return []
        reply = await self._post(pairs)
        if reply.status_code == 200:
            return await self._read(reply.json(), pairs)
        if reply.status_code not in _TOO_MUCH:
            raise EvaluationError(f"The service refused to judge: {_message(reply)}")
        if len(pairs) > 1:
            half = len(pairs) // 2
            return [*await self._ask(pairs[:half]), *await self._ask(pairs[half:])]
        error = _error(reply)
        return [Failure(str(error.get("code", reply.status_code)), str(error.get("message", "")))]

    async def _read(self, body: dict[str, Any], pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        if JudgeVersion(**body["judge_version"]) != self._judge:
            raise EvaluationError("The service's judge changed during the evaluation; start again for the new one.")
        outcomes = [_outcome(result) for result in body["results"]]
        later = [i for i, found in enumerate(outcomes) if isinstance(found, Failure) and found.code in _LATER]
        if len(later) == len(pairs):
            raise EvaluationError(f"The service cannot judge now ({_reason(outcomes[0])}); start again to go on.")
        for i, again in zip(later, await self._ask([pairs[i] for i in later]), strict=True):
            outcomes[i] = again
        return outcomes

    async def _post(self, pairs: Sequence[Pair]) -> httpx.Response:
        """The reply, asked again while the service says "later". Raises `EvaluationError` when it keeps saying so."""
        items = [{key: as_row(pair)[key] for key in ("prompt", "response_a", "response_b")} for pair in pairs]
        body = {"judge": self.name, "votes": self._votes, "items": items}
        pause, said = FIRST_PAUSE_S, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(pause)
                pause *= 2
            try:
                reply = await self._client.post("/compare", json=body, headers=self._headers)
            except httpx.TransportError as error:
                said = f"{type(error).__name__} {error}".strip()
                continue
            if reply.status_code != 503:
                return reply
            said = _message(reply)
            pause = max(pause, float(reply.headers.get("Retry-After", 0)))
        raise EvaluationError(
            f"The service at {self._client.base_url} did not answer {ATTEMPTS} times ({said}); what was judged is "
            "kept: start again to go on."
        )


def _outcome(result: dict[str, Any]) -> Verdict | Failure:
    if result["status"] != "ok":
        return Failure(result["error"]["code"], result["error"]["message"])
    usage = Usage(**result.get("usage", {}))
    return Verdict(
        **{field: result[field] for field in VERDICT_FIELDS}, label_mass=result.get("label_mass"), usage=usage
    )


def _reason(outcome: Verdict | Failure) -> str:
    return outcome.code if isinstance(outcome, Failure) else ""


def _error(reply: httpx.Response) -> dict[str, Any]:
    try:
        error = reply.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _message(reply: httpx.Response) -> str:
    return f"{reply.status_code} {_error(reply).get('message', reply.text[:200])}"
