"""Places in groups for rollouts that say nothing but their prompt: who sits where, and when a new group begins.

Some trainers post every rollout by itself, without a group's id and without an index. Their rollouts of one prompt are
put into groups of a configured size in the order in which they come. A rollout that comes again - its trainer lost the
connection and tries once more - gets its own place back; two rollouts that happen to be equal get two places, as long
as both wait. The groups themselves are assembled and judged elsewhere (`service.cohorts`).

Seats are this process's own: rollouts of one prompt that come to several replicas sit in several groups.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Table:
    """One group: ``id`` is unique, ``seats`` holds a digest of each place's response, ``empty`` the places whose
    rollout left without an answer, ``answered`` how many got one. A closed table takes nobody new."""

    id: str
    size: int
    used_at: float
    seats: list[bytes] = field(default_factory=list)
    empty: set[int] = field(default_factory=set)
    answered: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Seat:
    """One rollout's place, counted from 0."""

    prompt: str
    table: Table
    index: int


class Seating:
    """Tables by the prompt that brings rollouts together; any word that identifies it and its judge will do.

    A table nobody came to or left for ``keep_s`` is forgotten. `clock` gives seconds that never run backwards.
    """

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._tables: OrderedDict[str, list[Table]] = OrderedDict()  # the prompt not used for the longest is first

    def __len__(self) -> int:
        """Prompts that have a table."""
        return len(self._tables)

    def take(self, prompt: str, size: int, response: str) -> Seat:
        """The place this response left, else the next one in the open group, else the first in a new one."""
        self._forget()
        mark = hashlib.blake2b(response.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        tables = self._tables.setdefault(prompt, [])
        self._tables.move_to_end(prompt)
        for table in tables:
            index = next((i for i in sorted(table.empty) if table.seats[i] == mark), None)
            if index is not None:
                table.empty.discard(index)
                return self._seated(prompt, table, index)
        if not tables or tables[-1].closed or tables[-1].size != size:
            tables.append(Table(secrets.token_hex(16), size, self._clock()))
        table = tables[-1]
        table.seats.append(mark)
        table.closed = len(table.seats) == size
        return self._seated(prompt, table, len(table.seats) - 1)

    def answered(self, seat: Seat) -> None:
        """The rollout has its answer; with the first one the group takes nobody new."""
        table = seat.table
        table.closed = True
        table.answered += 1
        if table.answered == len(table.seats):
            self._clear(seat.prompt, table)

    def left(self, seat: Seat) -> None:
        """The rollout left without an answer; it may come again."""
        seat.table.empty.add(seat.index)
        seat.table.used_at = self._clock()

    def _seated(self, prompt: str, table: Table, index: int) -> Seat:
        table.used_at = self._clock()
        return Seat(prompt, table, index)

    def _clear(self, prompt: str, table: Table) -> None:
        tables = self._tables.get(prompt, [])
        if table in tables:
            tables.remove(table)
        if not tables:
            self._tables.pop(prompt, None)

    def _forget(self) -> None:
        over = self._clock() - self._keep_s
        while self._tables:
            prompt, tables = next(iter(self._tables.items()))
            if tables and max(table.used_at for table in tables) > over:
                return
            del self._tables[prompt]
