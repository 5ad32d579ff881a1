"""Which of several copies of a model gets a prompt: a group's go to one, which computes their prefixes once.

Rendezvous hashing (Thaler and Ravishankar 1998): every copy has a pseudo-random weight for every key and the heaviest
wins. Every process decides alike, in whatever order it lists the copies, and losing a copy moves only that copy's
groups, evenly over the others; they return with it. Bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018) keep a
popular question from drowning its copy: one that has too much in flight passes a group on.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

OVERLOAD = 1.25
"""A copy passes groups on when it has more than this multiple of the mean number of prompts in flight, and"""
SLACK = 64
"""this many more: all pairs of a group of 8 in both orders are 56 prompts, which one idle copy should keep."""
REMEMBERED = 4096
"""Groups that were passed on and whose copy is remembered, because their prefixes are there now."""


def preference(key: bytes, names: Collection[str]) -> list[str]:
    """The copies from heaviest to lightest for this key; the same for every order of ``names``."""
    return sorted(names, key=lambda name: (_weight(key, name), name), reverse=True)


def _weight(key: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=key[:64], digest_size=8).digest()


class Router:
    """Chooses a copy for each prompt of a group and remembers which groups were passed on."""

    def __init__(self) -> None:
        self._passed_on: OrderedDict[bytes, str] = OrderedDict()

    def pick(self, key: bytes, in_flight: Mapping[str, int]) -> str:
        """The copy for a prompt of group ``key``; ``in_flight`` is the number of prompts at each copy in service.

        A group leaves an overloaded copy for the first of its order that has no more than the mean, so that it does
        not leave that one again soon.
        """
        order = preference(key, in_flight)
        home = self._passed_on.get(key, order[0])
        if home not in in_flight:
            home = order[0]
        mean = (sum(in_flight.values()) + 1) / len(in_flight)
        if in_flight[home] + 1 > OVERLOAD * mean + SLACK:
            home = next(name for name in order if in_flight[name] <= mean)
        self._remember(key, None if home == order[0] else home)
        return home

    def _remember(self, key: bytes, home: str | None) -> None:
        self._passed_on.pop(key, None)
        if home is not None:
            self._passed_on[key] = home
            if len(self._passed_on) > REMEMBERED:
                self._passed_on.popitem(last=False)


class Ranks:
    """The same for the data-parallel ranks of one engine, whose prompts in flight are counted here."""

    def __init__(self, count: int) -> None:
        self.in_flight = {str(rank): 0 for rank in range(count)}
        self._router = Router()

    @contextmanager
    def choose(self, key: bytes | None) -> Iterator[int | None]:
        """The rank for one prompt, counted for the length of the block; None where the engine may choose itself."""
        if key is None or len(self.in_flight) < 2:
            yield None
            return
        name = self._router.pick(key, self.in_flight)
        self.in_flight[name] += 1
        try:
            yield int(name)
        finally:
            self.in_flight[name] -= 1
