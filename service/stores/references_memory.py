"""References in this process's memory: a restart forgets them, unless a file brings them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.errors import StoreUnavailable
from service.stores.references_base import ReferenceLimits, check_room, cost


class MemoryReferences:
    """A `ReferenceStore` in memory."""

    def __init__(self, limits: ReferenceLimits | None = None) -> None:
        self._limits = limits or ReferenceLimits()
        self._kept: dict[str, str] = {}
        self._bytes = 0
        self._closed = False

    async def start(self) -> None:
        """Nothing to open."""

    async def put(self, references: Mapping[str, str]) -> int:
        """See `ReferenceStore.put`."""
        self._check_open()
        replaced = [self._kept[key] for key in references if key in self._kept]
        after = self._bytes + sum(map(cost, references.values())) - sum(map(cost, replaced))
        check_room(len(self._kept) + len(references) - len(replaced), after, self._limits)
        self._kept.update(references)
        self._bytes = after
        return len(self._kept)

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See `ReferenceStore.get`."""
        self._check_open()
        return [self._kept.get(key) for key in keys]

    async def close(self) -> None:
        """See `ReferenceStore.close`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("The reference store is closed; the service is shutting down.")
