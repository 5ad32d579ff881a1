"""References on the Redis of the reward queues: shared by all replicas of a service. They are one hash; the script that
writes checks the limits first, so that all of a call's references are kept or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.errors import StartupError, StoreUnavailable
from service.stores.redis_link import Argument, LinkOptions, RedisLink, Script
from service.stores.references_base import OVERHEAD_BYTES, ReferenceLimits, check_room

_PUT = Script("references")


class RedisReferences:
    """A `ReferenceStore` on the Redis at `url`, whose keys all begin with ``{prefix}``."""

    def __init__(
        self,
        url: str,
        limits: ReferenceLimits | None = None,
        prefix: str = "gram",
        options: LinkOptions | None = None,
    ) -> None:
        self._limits = limits or ReferenceLimits()
        self._kept, self._bytes = f"{{{prefix}}}:references", f"{{{prefix}}}:reference_bytes"
        self._link = RedisLink(url, options)

    async def start(self) -> None:
        """See `ReferenceStore.start`."""
        try:
            await self._link.command("HLEN", self._kept)
        except StoreUnavailable as error:
            raise StartupError(f"The reference store does not start. {error.message}") from error

    async def put(self, references: Mapping[str, str]) -> int:
        """See `ReferenceStore.put`."""
        arguments: list[Argument] = [self._limits.max_entries, self._limits.max_bytes, OVERHEAD_BYTES]
        arguments += [part for item in references.items() for part in item]
        status, entries, kept_bytes = await self._link.run(_PUT, [self._kept, self._bytes], arguments)
        if status == b"full":
            check_room(int(entries), int(kept_bytes), self._limits)
        return int(entries)

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See `ReferenceStore.get`."""
        if not keys:
            return []
        found = await self._link.command("HMGET", self._kept, *keys)
        return [None if text is None else text.decode() for text in found]

    async def close(self) -> None:
        """See `ReferenceStore.close`."""
        await self._link.close()
