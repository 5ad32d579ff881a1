"""Train, validation and test by prompt: no question stands on two sides, and a pair's side depends on its group alone.

A group is everything that must stay together: pairs of one prompt (by its first question's wording), pairs the source
says belong together, prompts that are nearly the same. A side is drawn from a hash of the group, so adding data moves
nothing that was there before, unless it joins two groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from training.data.pairs import Pair
from training.data.texts import first_question, wording

Side = Literal["train", "validation", "test"]


def keys_of(pair: Pair) -> tuple[str, ...]:
    """What ties a pair to others: its prompt, and the group its source names."""
    prompt = _prompt_key(first_question(pair.prompt))
    return (prompt, _short("group", f"{pair.source}\x1f{pair.group}")) if pair.group else (prompt,)


@dataclass(slots=True)
class Groups:
    """Keys that were tied together, directly or through others. A group's name is its smallest key."""

    _parent: dict[str, str] = field(default_factory=dict)

    def tie(self, keys: Iterable[str]) -> None:
        first, *others = (self.name_of(key) for key in keys)
        for other in others:
            root = self.name_of(first)
            low, high = sorted((root, other))
            self._parent[high] = low

    def name_of(self, key: str) -> str:
        root = key
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while key != root:
            self._parent[key], key = root, self._parent[key]
        return root


def side_of(group: str, seed: int, fractions: Mapping[Side, float]) -> Side:
    """The side of a group: ``fractions`` sum to 1, in an order that never changes for the same names."""
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    for name, fraction in fractions.items():
        draw -= fraction
        if draw < 0:
            return name
    return next(name for name, fraction in fractions.items() if fraction > 0)


@lru_cache(maxsize=4096)  # pairs of one prompt follow each other
def _prompt_key(question: str) -> str:
    return _short("prompt", wording(question))


def _short(kind: str, text: str) -> str:
    """Sixteen bytes for a text of any length."""
    return kind[0] + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
