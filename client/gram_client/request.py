"""Requests as they go out: one pure function for each, shared by both clients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from gram_client.errors import InvalidRequest
from gram_client.items import Goal, GroupMethod, Method, Normalize, Prompt, Reference, wire_prompt


@dataclass(frozen=True)
class Request:
    """One HTTP request. ``key`` is its Idempotency-Key, the same at every try.

    ``repeatable``: doing it twice does no harm. ``timed``: the service is told the deadline.
    """

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    raw: bytes | None = None
    key: str | None = None
    repeatable: bool = True
    timed: bool = True

    def content(self) -> bytes | None:
        """The body. Raises `InvalidRequest` for what JSON cannot hold."""
        return self.raw if self.json is None else encoded(self.json)


def encoded(value: Any) -> bytes:
    """JSON in UTF-8. Raises `InvalidRequest` for NaN, infinity and objects that are no JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: escaped it can be sent, and the service names the field
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.") from error


def _present(**fields: Any) -> dict[str, Any]:
    """Only what is set: the service's own defaults hold for the rest."""
    return {name: value for name, value in fields.items() if value is not None}


# --- judging -------------------------------------------------------------------------------------------------------


def compare(prompt: Prompt, response_a: str, response_b: str, *, votes: int, judge: str | None) -> Request:
    pair = {"prompt": wire_prompt(prompt), "response_a": response_a, "response_b": response_b, "votes": votes}
    return Request("POST", "/compare", pair | _present(judge=judge))


def compare_batch(items: Sequence[Mapping[str, Any]], *, votes: int, judge: str | None) -> Request:
    return Request("POST", "/compare", {"items": list(items), "votes": votes} | _present(judge=judge))


def rank(
    prompt: Prompt,
    responses: Sequence[str],
    *,
    method: Method,
    goal: Goal,
    top_k: int | None,
    confidence: float,
    max_comparisons: int | None,
    judge: str | None,
) -> Request:
    asked = {"prompt": wire_prompt(prompt), "responses": list(responses), "method": method, "goal": goal}
    more = _present(top_k=top_k, confidence=confidence, max_comparisons=max_comparisons, judge=judge)
    return Request("POST", "/rank", asked | more)


def rationale(
    prompt: Prompt,
    response_a: str,
    response_b: str,
    *,
    votes: int,
    stop_when_decided: bool,
    max_rationale_tokens: int | None,
    on_budget: str | None,
    judge: str | None,
    stream: bool,
) -> Request:
    asked = {
        "prompt": wire_prompt(prompt),
        "response_a": response_a,
        "response_b": response_b,
        "votes": votes,
        "stop_when_decided": stop_when_decided,
        "stream": stream,
    }
    more = _present(max_rationale_tokens=max_rationale_tokens, on_budget=on_budget, judge=judge)
    return Request("POST", "/rationale", asked | more)


def score_items(
    items: Sequence[Mapping[str, Any]], *, normalize: Normalize | None, judge: str | None, key: str
) -> Request:
    """References, members of cohorts or single responses, whatever the items are."""
    more = _present(normalize=normalize and normalize.wire(), judge=judge)
    return Request("POST", "/score", {"items": list(items)} | more, key=key)


def score_groups(
    groups: Sequence[Mapping[str, Any]],
    *,
    method: GroupMethod | None,
    normalize: Normalize | None,
    judge: str | None,
    key: str,
) -> Request:
    more = _present(method=method, normalize=normalize and normalize.wire(), judge=judge)
    return Request("POST", "/score", {"groups": list(groups)} | more, key=key)


# --- everything around it ------------------------------------------------------------------------------------------


def models() -> Request:
    return Request("GET", "/models")


def queues() -> Request:
    return Request("GET", "/queues")


def _queue_path(name: str) -> str:
    if not name:
        raise InvalidRequest("Name the queue; GET /queues lists them.")
    return f"/queues/{quote(name, safe='')}"


def queue(name: str) -> Request:
    return Request("GET", _queue_path(name))


def delete_queue(name: str) -> Request:
    """Not repeated blindly: after a lost answer a second try would say that there is no such queue."""
    return Request("DELETE", _queue_path(name), repeatable=False)


def export_queue(name: str, *, judge: str | None, score_kind: str | None, weight_version: str | None) -> Request:
    chosen = urlencode(_present(judge=judge, score_kind=score_kind, weight_version=weight_version))
    return Request("POST", f"{_queue_path(name)}/export{'?' if chosen else ''}{chosen}")


def import_queue(name: str, data: bytes) -> Request:
    """Not repeated blindly: after a lost answer a second try would find the queue there."""
    return Request("POST", f"{_queue_path(name)}/import", raw=data, repeatable=False)


def put_references(items: Sequence[Reference | tuple[Prompt, str]]) -> Request:
    pairs = [(item.prompt, item.reference) if isinstance(item, Reference) else item for item in items]
    stored = [{"prompt": wire_prompt(prompt), "reference": reference} for prompt, reference in pairs]
    return Request("PUT", "/references", {"items": stored})


def probe(path: str) -> Request:
    """/livez, /readyz, /startupz: outside of every deadline."""
    return Request("GET", path, timed=False)


def metrics() -> Request:
    return Request("GET", "/metrics")
