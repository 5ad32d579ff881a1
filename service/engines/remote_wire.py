"""What vLLM's OpenAI server answers, read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.engines.base import FINISHED, EngineRequest
from service.errors import JudgmentFailed
from service.types import Completion

ABORTED = "The server stopped this request before it was done; try it again."
# The wire's stand-in for minus infinity, and on some routes for NaN; neither is a usable log-probability.
WIRE_FLOOR = -9999.0


def read_answer(request: EngineRequest, answer: Mapping[str, Any]) -> Completion:
    choice = answer["choices"][0] if answer["choices"] else {}
    reason = choice.get("finish_reason")
    if reason not in FINISHED:
        raise JudgmentFailed(ABORTED)
    cached = ((answer.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    done = Completion(FINISHED[reason], len(request.prompt_ids), cached)
    if request.task == "generate":
        return replace(done, token_ids=tuple(choice.get("token_ids") or ()), text=choice["text"])
    if request.task == "likelihood":
        return replace(done, finish_reason="length", **_likelihood(request, choice.get("prompt_logprobs")))
    row = choice["logprobs"]["top_logprobs"][0]
    try:
        values = [row[f"token_id:{label}"] for label in request.label_ids]
    except KeyError as error:
        raise JudgmentFailed("The vLLM server left out a label's probability; it needs vLLM 0.32.") from error
    return replace(done, finish_reason="length", label_logprobs=tuple(_from_wire(value) for value in values))


def _likelihood(request: EngineRequest, rows: Sequence[Mapping[str, Any] | None] | None) -> dict[str, Any]:
    """Sum over the rows from ``scored_from`` on; each holds its own token, by its id as a string."""
    if rows is None or len(rows) != len(request.prompt_ids):
        raise JudgmentFailed("The server left out the prompt's probabilities; it needs vLLM 0.32.")
    scored = list(zip(request.prompt_ids, rows, strict=True))[request.scored_from :]
    values = [_from_wire(row[str(token)]["logprob"]) if row else math.nan for token, row in scored]
    return {"log_likelihood": math.fsum(values), "scored_tokens": len(scored)}


def _from_wire(value: float | None) -> float:
    return math.nan if value is None or value <= WIRE_FLOOR else value


def read_scalar(request: EngineRequest, answer: Mapping[str, Any]) -> Completion:
    values = answer["data"][0]["probs"]  # raw outputs, since the activation is off
    if len(values) != 1:
        raise JudgmentFailed("The served model has several outputs; a scalar judge needs a head with one.")
    return Completion("stop", len(request.prompt_ids), score=math.nan if values[0] is None else values[0])


def tokens_of(metrics: str) -> float:
    """How many tokens a server has read and written so far, from its own metrics; 0 where it does not say."""
    names = ("vllm:prompt_tokens_total{", "vllm:generation_tokens_total{")
    return math.fsum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(names))
