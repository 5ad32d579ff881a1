"""What is sent: pairs, referenced responses, groups, members of cohorts, and how scores become rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gram_client.errors import InvalidRequest

Prompt = str | Sequence[Mapping[str, Any]]
"""A text, or a chat: messages with ``role`` and ``content``. Other keys of a message are left out."""
Method = Literal["auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive"]
GroupMethod = Literal["all_pairs", "pivot", "swiss"]
Goal = Literal["order", "best", "top_k"]


@dataclass(frozen=True)
class Pair:
    """Which of two responses is better?"""

    prompt: Prompt
    response_a: str
    response_b: str
    id: str | None = None


@dataclass(frozen=True)
class Single:
    """A response by itself: for scalar judges, and for prompts whose reference the service has stored."""

    prompt: Prompt
    response: str
    id: str | None = None


@dataclass(frozen=True)
class Referenced:
    """A response and what it is compared with: score = P(response better than reference)."""

    prompt: Prompt
    response: str
    reference: str
    id: str | None = None


@dataclass(frozen=True)
class Group:
    """2 to 64 responses to one prompt: score = mean win probability over the others."""

    prompt: Prompt
    responses: Sequence[str]
    id: str | None = None


@dataclass(frozen=True)
class Member:
    """One response of a group whose members are sent in calls of their own.

    The call is answered when all `size` members have come, or `deadline_ms` after the first (at most four fifths of the
    call's own time). A member sent again gets the same row; a new `attempt` begins anew under the same id.
    """

    prompt: Prompt
    response: str
    group_id: str
    size: int
    index: int
    attempt: int = 0
    deadline_ms: int | None = None
    id: str | None = None


@dataclass(frozen=True)
class Reference:
    """What responses to a prompt are compared with where no other reference is sent."""

    prompt: Prompt
    reference: str


@dataclass(frozen=True)
class Normalize:
    """``reward = scale * clip((score - mean) / std, +-clip)`` with the statistics of the queue's last `window` scores.

    While the queue holds fewer than `min_count` scores the reward is the score. ``update=False`` reads the statistics
    and enters nothing.
    """

    queue: str
    window: int = 1000
    scale: float = 1.0
    update: bool = True
    min_count: int = 16
    clip: float = 10.0

    def wire(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "window": self.window,
            "scale": self.scale,
            "update": self.update,
            "min_count": self.min_count,
            "clip": self.clip,
        }


def wire_prompt(prompt: Prompt) -> str | list[dict[str, Any]]:
    """A prompt as it is sent. Raises `InvalidRequest` for what is neither a text nor a list of messages."""
    if isinstance(prompt, str):
        return prompt
    try:
        return [{"role": message["role"], "content": message["content"]} for message in prompt]
    except (TypeError, KeyError) as error:
        raise InvalidRequest("A prompt is a text or a list of messages that have a role and a content.") from error


def _with_id(item: dict[str, Any], item_id: str | None) -> dict[str, Any]:
    if item_id is not None:
        item["id"] = item_id
    return item


def wire_pair(pair: Pair | Sequence[Any]) -> dict[str, Any]:
    """A pair, or the tuple of its fields, as an item of /compare."""
    one = pair if isinstance(pair, Pair) else Pair(*pair)
    item = {"prompt": wire_prompt(one.prompt), "response_a": one.response_a, "response_b": one.response_b}
    return _with_id(item, one.id)


def wire_single(single: Single) -> dict[str, Any]:
    return _with_id({"prompt": wire_prompt(single.prompt), "response": single.response}, single.id)


def wire_referenced(one: Referenced) -> dict[str, Any]:
    item = {"prompt": wire_prompt(one.prompt), "response": one.response, "reference": one.reference}
    return _with_id(item, one.id)


def wire_group(group: Group) -> dict[str, Any]:
    return _with_id({"prompt": wire_prompt(group.prompt), "responses": list(group.responses)}, group.id)


def wire_member(member: Member) -> dict[str, Any]:
    cohort = {"group_id": member.group_id, "size": member.size, "index": member.index, "attempt": member.attempt}
    if member.deadline_ms is not None:
        cohort["deadline_ms"] = member.deadline_ms
    item = {"prompt": wire_prompt(member.prompt), "response": member.response, "cohort": cohort}
    return _with_id(item, member.id)
