"""Pairs that teach nothing or teach wrongly: what is dropped from every data set, by reason.

A preference between a text and itself, or without a text, is noise whatever its label; lone surrogates cannot be
written or tokenized. Two rows of the same responses with opposite labels cancel: neither is kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from training.data.pairs import Pair
from training.data.texts import spaced

_SURROGATE = re.compile("[\ud800-\udfff]")


def fault_of(pair: Pair) -> str | None:
    """Why a pair cannot be used; None if it can. White space alone counts as empty, and as no difference."""
    texts = [message.content for message in pair.prompt.messages]
    if any(_SURROGATE.search(text) for text in (*texts, pair.response_a, pair.response_b, pair.id)):
        return "lone surrogate"
    if not any(text.strip() for text in texts):
        return "empty prompt"
    if not pair.response_a.strip() or not pair.response_b.strip():
        return "empty response"
    if spaced(pair.response_a) == spaced(pair.response_b):
        return "identical responses"
    if pair.prompt.messages[-1].role == "assistant":
        return "the prompt ends with the assistant's turn"
    return None


@dataclass(slots=True)
class Duplicates:
    """Which pairs ask the same: equal prompt and responses but for white space, in either order.

    `add` every pair, then ask for `faults`. Keeps 16 bytes a pair and label, not the texts.
    """

    _identities: list[bytes] = field(default_factory=list)
    _winners: dict[bytes, set[bytes]] = field(default_factory=dict)

    def add(self, pair: Pair) -> None:
        identity = _identity(pair)
        self._identities.append(identity)
        if pair.label is not None:
            self._winners.setdefault(identity, set()).add(_digest([pair.chosen]))

    def faults(self) -> dict[int, str]:
        """Index and reason of each pair to drop: all with contradicting labels, all but the first of equal ones."""
        found: dict[int, str] = {}
        seen: set[bytes] = set()
        for index, identity in enumerate(self._identities):
            if len(self._winners.get(identity, ())) > 1:
                found[index] = "conflicting labels"
            elif identity in seen:
                found[index] = "duplicate"
            seen.add(identity)
        return found


def _identity(pair: Pair) -> bytes:
    prompt = [part for message in pair.prompt.messages for part in (message.role, message.content)]
    return _digest([*prompt, *sorted((spaced(pair.response_a), spaced(pair.response_b)))])


def _digest(texts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = spaced(text).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()
