"""OpenRLHF: a file for ``--reward.remote_url`` (written against openrlhf 0.11.2; docs/trainers/openrlhf.md).

    --reward.remote_url "$(python -c 'import gram_client.adapters.openrlhf_reward as f; print(f.__file__)')"

The service's own address, http://HOST:PORT/get_reward, needs no Python and does the same. This file is for what
OpenRLHF's client cannot do: a key in a header, a deadline, and an answer when the service is away. There OpenRLHF would
end up with no reward at all and crash later, so this gives a neutral number with ``ok: 0.0`` in its logs.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from gram_client import calls
from gram_client.adapters.judging import Judging
from gram_client.errors import MalformedReply, ScoringError
from gram_client.exchange import Reply
from gram_client.link import Link
from gram_client.request import Request
from gram_client.retries import Retries
from gram_client.transport import Settings

logger = logging.getLogger(__name__)

LOGS = ("ok", "consistent", "flagged", "normalized", "margin")
"""What the service logs of every sample; OpenRLHF wants the same keys always."""
NEUTRAL = 0.5


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[Any],
    *,
    base_url: str | None = None,
    timeout_s: float = 150.0,
    neutral: float = NEUTRAL,
    **passed: Any,
) -> dict[str, Any]:
    """What OpenRLHF calls, with one sample (since 0.9.1) or many. A label that is a text is the reference.

    Where the service is stands in the environment variables of `gram_client.adapters.judging`. `neutral` is the reward
    of what nobody could judge; 0.0 where the service normalizes rewards. Never raises.
    """
    body = {"query": list(queries), "prompts": list(prompts), "labels": list(labels)}
    try:
        url, key, _ = Judging(base_url).address()
        link = _link(url, key, timeout_s)
        request = Request("POST", "/get_reward", body)
        told = link.run(calls.one(request, lambda reply: _told(reply, len(queries))), None)
    except ScoringError as error:
        logger.warning("%d samples have no reward: %s", len(queries), error)
        zeros = [0.0] * len(queries)
        scores = [0.5] * len(queries)
        return {"rewards": [neutral] * len(queries), "scores": scores, "extra_logs": dict.fromkeys(LOGS, zeros)}
    failed = told["extra_logs"]["ok"].count(0.0)
    if failed:
        logger.warning("%d of %d samples could not be judged; their rewards are neutral.", failed, len(queries))
    return told


@cache
def _link(url: str, key: str | None, timeout_s: float) -> Link:
    link = Link(Settings(url, key, None, timeout_s, Retries(), max_chunk=1, concurrency=1))
    atexit.register(link.close)
    return link


def _told(reply: Reply, count: int) -> dict[str, Any]:
    """Raises `MalformedReply`: OpenRLHF itself checks nothing."""
    told = reply.json()
    try:
        lists = [told["rewards"], told["scores"], *(told["extra_logs"][name] for name in LOGS)]
    except (KeyError, TypeError) as error:
        raise MalformedReply("The answer is not what /get_reward promises.") from error
    if any(not isinstance(one, list) or len(one) != count for one in lists):
        raise MalformedReply(f"The answer has not one entry for each of {count} samples.")
    return {
        "rewards": told["rewards"],
        "scores": told["scores"],
        "extra_logs": {n: told["extra_logs"][n] for n in LOGS},
    }
