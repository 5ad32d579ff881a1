"""What every store of references promises: one response for each prompt, which others are compared with.

A trainer that posts a prompt and a response, and nothing else, is scored against the reference that was stored for the
prompt. References belong to the service, not to a key or a queue; storing another one for a prompt replaces it, and
scores from then on are against the new one. `tests/contract/test_reference_contract.py` holds every store to this page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.errors import Overloaded
from service.types import Prompt

OVERHEAD_BYTES = 256
"""What a reference costs beside its text: its key, its place. An estimate, on the high side."""


@dataclass(frozen=True, slots=True)
class ReferenceLimits:
    """Bounds on what a store keeps; reaching one is an `Overloaded` error, never a silent eviction."""

    max_entries: int = 1_000_000
    max_bytes: int = 1024**3


class ReferenceStore(Protocol):
    """References by `key_of` their prompt. Each call is atomic against others, other replicas and a kill.

    Errors of every method: `StoreUnavailable` when the store cannot be reached.
    """

    async def start(self) -> None:
        """Open the store. Raises `StartupError`."""
        ...

    async def put(self, references: Mapping[str, str]) -> int:
        """Keep all of them, each in the place of an earlier one, or none; returns how many the store holds now.

        Raises `Overloaded` at a limit.
        """
        ...

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """The references of these prompts, in order; None where there is none."""
        ...

    async def close(self) -> None:
        """Free what `start` took. May be called twice."""
        ...


def key_of(prompt: Prompt) -> str:
    """32 hex digits of SHA-256 over the conversation; one user turn and the same plain text are one prompt."""
    turns = [(message.role, message.content) for message in prompt.messages]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:32]


def cost(text: str) -> int:
    """Bytes a reference is counted with."""
    return OVERHEAD_BYTES + len(text.encode())


def check_room(entries: int, kept_bytes: int, limits: ReferenceLimits) -> None:
    """Raises `Overloaded` when the counts after a change pass a limit."""
    if entries > limits.max_entries or kept_bytes > limits.max_bytes:
        raise Overloaded("The store is full of references; raise the limits in [references], or store fewer.")
