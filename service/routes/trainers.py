"""The routes of trainers that speak formats of their own: /get_reward (OpenRLHF), /remote_rm (slime), /classify (verl).

Each takes its format apart into rollouts, has them scored (`service.routes.rollouts`) and writes the numbers back in
that format. All three wait for room instead of refusing work, since these callers give up after a few quick errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal

from fastapi import APIRouter

from service.context import Call, Gate, Service
from service.errors import InvalidInput, ServiceError
from service.judge import Judge
from service.routes.base import DOCUMENTED, TheCall, TheGate, TheService, guarded
from service.routes.rollouts import Judged, Rollout, RolloutCall
from service.schemas.trainers import (
    ClassifyReply,
    ClassifyRequest,
    ClassOut,
    ExtraLogs,
    RemoteReply,
    RemoteRequest,
    RewardReply,
    RewardRequest,
    TokensOut,
    TurnIn,
    chat,
    checked_text,
)
from service.types import Prompt, Usage
from service.untemplating import ROLES, dialect_of, plain_prompt, plain_response, split, split_alone

router = APIRouter(route_class=guarded("score", patient=True), dependencies=DOCUMENTED, tags=["trainers"])

LONG_CHARS = 100_000
"""Bodies of more text are taken apart in a worker thread."""


@router.post("/get_reward")
async def get_reward(body: RewardRequest, service: TheService, gate: TheGate, call: TheCall) -> RewardReply:
    """OpenRLHF's remote reward model, every version: lists in, lists of the same length and order out.

    A string label is the reference. A judgment that failed is a neutral number with `ok` 0.0 in `extra_logs`.
    """
    more = gate.settings.compat.special_tokens
    prompts: Sequence[str | None] = body.prompts or [None] * len(body.query)
    labels = body.labels or [None] * len(body.query)

    def take_apart() -> list[Rollout | ServiceError]:
        rows = zip(body.query, prompts, labels, strict=True)
        return [_isolated(_of_query, *row, more) for row in rows]

    judged = await _score(take_apart, sum(map(len, body.query)), service, gate, call)
    logs = [one.logs() for one in judged]
    return RewardReply(
        rewards=[one.reward for one in judged],
        scores=[one.score for one in judged],
        extra_logs=ExtraLogs.model_validate({key: [log[key] for log in logs] for key in ExtraLogs.model_fields}),
    )


@router.post("/remote_rm")
async def remote_rm(
    body: RemoteRequest,
    service: TheService,
    gate: TheGate,
    call: TheCall,
    reply: Literal["number", "object"] = "number",
) -> float | RemoteReply:
    """slime's remote reward model: one rollout in, its reward out as a bare number; `?reply=object` names it.

    A judgment that failed is a neutral number; only the object tells (`ok` 0.0).
    """
    more = gate.settings.compat.special_tokens

    def take_apart() -> list[Rollout | ServiceError]:
        return [_isolated(_of_response, body, more)]

    (judged,) = await _score(take_apart, len(body.response), service, gate, call)
    if reply == "number":
        return judged.reward
    return RemoteReply.model_validate({"reward": judged.reward, "score": judged.score, **judged.logs()})


@router.post("/classify")
async def classify(body: ClassifyRequest, service: TheService, gate: TheGate, call: TheCall) -> ClassifyReply:
    """vLLM's classification as verl's reward-model client calls it: a conversation in, one number out.

    `use_activation: false` asks for the reward, else the number is the score in [0, 1]. `model` chooses a judge where
    it is the name of one; a judgment that failed is a neutral number with the label `failed`.
    """
    more = gate.settings.compat.special_tokens
    texts = [body.input] if isinstance(body.input, str) else body.input or []

    def take_apart() -> list[Rollout | ServiceError]:
        if body.messages is not None:
            return [_isolated(_of_chat, body.messages)]
        return [_isolated(_of_conversation, text, more) for text in texts]

    judged = await _score(take_apart, sum(map(len, texts)), service, gate, call, body.model)
    raw = body.use_activation is False
    numbers = [one.reward if raw else one.score for one in judged]
    return ClassifyReply(
        id=f"classify-{call.request_id}",
        created=int(time.time()),
        model=call.seen.judge or "",
        data=[
            ClassOut(index=index, label="ok" if one.ok else "failed", probs=[number])
            for index, (one, number) in enumerate(zip(judged, numbers, strict=True))
        ],
        usage=tokens_out(call.seen.usage),
    )


def judge_for(service: Service, gate: Gate, model: str = "") -> Judge:
    """The judge called ``model``, else the configured one, else the first. These clients always send some model's
    name, so one that is no judge's says nothing."""
    return service.scorer.judge(model if model in service.scorer.judges else gate.settings.compat.judge)


def tokens_out(usage: Usage) -> TokensOut:
    """Tokens as OpenAI's servers count them."""
    total = usage.prompt_tokens + usage.completion_tokens
    return TokensOut(prompt_tokens=usage.prompt_tokens, total_tokens=total, completion_tokens=usage.completion_tokens)


async def _score(
    take_apart: Callable[[], Sequence[Rollout | ServiceError]],
    chars: int,
    service: Service,
    gate: Gate,
    call: Call,
    model: str = "",
) -> list[Judged]:
    rollouts = await asyncio.to_thread(take_apart) if chars > LONG_CHARS else take_apart()
    return await RolloutCall(judge_for(service, gate, model), service, gate, call).score(rollouts)


def _isolated(make: Callable[..., Rollout], *parts: object) -> Rollout | ServiceError:
    """The rollout in some parts of a request, or why there is none."""
    try:
        return make(*parts)
    except InvalidInput as error:
        return error


def _of_query(query: str, prompt: str | None, label: object, more: tuple[str, ...]) -> Rollout:
    if prompt is None:
        return _rollout(*split_alone(query, more), label)
    return _rollout(plain_prompt(prompt), plain_response(split(query, prompt), dialect_of(prompt), more), label)


def _of_response(body: RemoteRequest, more: tuple[str, ...]) -> Rollout:
    if isinstance(body.prompt, str):
        prompt, dialect = plain_prompt(body.prompt), dialect_of(body.prompt)
    else:
        prompt, dialect = chat(body.prompt, ROLES), None
    return _rollout(prompt, plain_response(body.response, dialect, more), body.label)


def _of_conversation(text: str, more: tuple[str, ...]) -> Rollout:
    return _rollout(*split_alone(text, more), None)


def _of_chat(turns: Sequence[TurnIn]) -> Rollout:
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise InvalidInput("The chat does not end with an answer to anything; send the response as its last message.")
    return _rollout(chat(list(turns[:-1]), ROLES), turns[-1].words, None)


def _rollout(prompt: Prompt, response: str, label: object) -> Rollout:
    """Raises `InvalidInput` for texts that no judge can be asked about."""
    for message in prompt.messages if len(prompt.messages) == 1 else ():
        checked_text(message.content, "prompt")
    return Rollout(prompt, checked_text(response, "response"), label)
