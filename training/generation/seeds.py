"""Seeds that depend on what is sampled and on nothing else: no counter, no clock, no order of work."""

from __future__ import annotations

import hashlib


def seed_of(*parts: str | int) -> int:
    """63 bits of a hash of the parts, such as (row, round, order, vote).

    Order and kind matter: ``("1", 2)``, ``(1, 2)`` and ``("12",)`` are three seeds.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = f"{type(part).__name__}:{part}".encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") >> 1
