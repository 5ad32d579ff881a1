"""Who is next: requests that wait for room, with a fair share of it for every key.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over keys. Each key has a virtual finish time, to which
the work of each of its requests is added when that is let in; the key whose next request would start earliest is first,
and within a key first come is first served. So a key that asks for ten times as much waits in its own line, one that
was idle has saved nothing up, and a request is passed by a bounded amount of work: none waits for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request asks of the engine: prompts, and the tokens in them and of what is written behind them."""

    prompts: int
    tokens: int = 0


@dataclass(slots=True, eq=False)
class Place:
    """One waiting request. ``work`` is its cost as one number, in a unit that all places share; ``turn`` is set when it
    is let in, and cancelled when it has left. ``patient``: its caller cannot come again later."""

    key: str
    cost: Cost
    work: float
    turn: asyncio.Future[None]
    patient: bool = False
    number: int = field(default=0, init=False)


class FairLine:
    """Keys' waiting requests in the order of their turns. Memory grows with keys and with what waits, nothing else."""

    def __init__(self) -> None:
        self._places: dict[str, deque[Place]] = {}
        self._finish: dict[str, float] = {}
        self._now = 0.0
        self._joined = 0
        self._length = 0
        self._patient = 0
        self._work: dict[str, float] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def patient(self) -> int:
        """How many of those that wait are patient."""
        return self._patient

    @property
    def work(self) -> float:
        """Of all that wait."""
        return sum(self._work.values())

    def of(self, key: str) -> int:
        """How many requests of this key wait."""
        return len(self._places.get(key, ()))

    def join(self, place: Place) -> None:
        """Take the last place among the key's own."""
        self._joined += 1
        place.number = self._joined
        self._places.setdefault(place.key, deque()).append(place)
        self._work[place.key] = self._work.get(place.key, 0.0) + place.work
        self._length += 1
        self._patient += place.patient

    def leave(self, place: Place) -> None:
        """Give a place up, which may have been given up before."""
        places = self._places.get(place.key)
        if places is None or place not in places:
            return
        places.remove(place)
        self._work[place.key] -= place.work
        self._length -= 1
        self._patient -= place.patient
        if not places:
            del self._places[place.key], self._work[place.key]

    def first(self) -> Place | None:
        """Whose turn it is."""
        heads = [places[0] for places in self._places.values()]
        return min(heads, key=lambda place: (self._start(place.key), place.number), default=None)

    def charge(self, key: str, work: float) -> None:
        """Note what a key was given, whether it had to wait for it or not."""
        self._now = self._start(key)
        self._finish[key] = self._now + work

    def ahead_of(self, key: str) -> float:
        """Work that gets its turn before a new request of `key`: of each other key at most as much as of its own."""
        own = self._work.get(key, 0.0)
        return own + sum(min(work, own) for other, work in self._work.items() if other != key)

    def _start(self, key: str) -> float:
        """The virtual time at which the key's next request would start."""
        return max(self._now, self._finish.get(key, 0.0))
