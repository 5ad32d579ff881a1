"""What goes between a program with a trainer's clients and the one that measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rollout:
    """``prompt`` is templated, ``response`` what the policy generates (its end token included), ``label`` of the data
    set."""

    prompt: str
    response: str
    label: Any


@dataclass(frozen=True, slots=True)
class Job:
    """``clients`` executors work on the rollouts at the same time. ``max_length`` is in tokens; what of a prompt does
    not fit beside the response is cut off at its left, by OpenRLHF."""

    urls: Sequence[str]
    rollouts: Sequence[Rollout]
    clients: int
    max_length: int = 100_000


@dataclass(frozen=True, slots=True)
class Rewarded:
    """What OpenRLHF passes on for one rollout; ``reward`` is None where it gave up."""

    reward: Any
    scores: Any
    extra_logs: dict[str, Any]
