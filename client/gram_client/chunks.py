"""Big lists as several requests: order is kept, nothing is lost, and one bad item spoils no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_client.errors import InvalidRequest
from gram_client.exchange import Reply, Step, Steps
from gram_client.request import Request, encoded
from gram_client.results import ItemError

Item = Mapping[str, Any]
Ask = Callable[[Request], Steps[Reply]]
"""One request, answered: `exchange` under the call's retries and deadline."""

CHUNK_BYTES = 4 * 1024 * 1024 - 64 * 1024
"""Items of one request in bytes: the service's limit of a body, less what stands around them."""

_PLACE = re.compile(r"body\.(?:items|groups)\[(\d+)\]")


def split(items: Sequence[Item], weights: Sequence[int], max_weight: int, max_bytes: int = CHUNK_BYTES) -> list[range]:
    """Consecutive ranges that cover `items`, each at most `max_weight` heavy and `max_bytes` long, or a single item.

    `weights` are the judged pairs of each item; an item is never divided.
    """
    sizes = [0] * len(items)
    if len(encoded(items)) > max_bytes:
        sizes = [len(encoded(item)) + 1 for item in items]
    ranges: list[range] = []
    start, weight, size = 0, 0, 0
    for i, (more_weight, more_size) in enumerate(zip(weights, sizes, strict=True)):
        if i > start and (weight + more_weight > max_weight or size + more_size > max_bytes):
            ranges.append(range(start, i))
            start, weight, size = i, 0, 0
        weight += more_weight
        size += more_size
    return [*ranges, range(start, len(items))] if items else []


@dataclass(frozen=True)
class Answered:
    """What became of a batch: the reply's JSON for the items `kept` (None without any), and why others were refused."""

    data: Any
    kept: Sequence[int]
    refused: Mapping[int, ItemError]


def ask_batch(ask: Ask, items: Sequence[Item], request: Callable[[Sequence[Item]], Request]) -> Steps[Answered]:
    """Send the items as one request. Items that the service names as invalid are left out, and the rest is sent again.

    Nothing was judged or counted of a request that is refused so. Raises the `ScoringError` that concerns all.
    """
    kept = list(range(len(items)))
    refused: dict[int, ItemError] = {}
    while kept:
        try:
            reply = yield from ask(request([items[i] for i in kept]))
        except InvalidRequest as error:
            named = _named(error, len(kept))
            if not named:
                raise
            refused |= {kept[place]: why for place, why in named.items()}
            kept = [i for i in kept if i not in refused]
        else:
            return Answered(reply.json(), kept, refused)
    return Answered(None, kept, refused)


def _named(error: InvalidRequest, count: int) -> dict[int, ItemError]:
    """The items that a refusal names, by place; empty if it concerns (also) something else."""
    faults = error.details.get("errors")
    if not isinstance(faults, list):
        return {}
    named: dict[int, ItemError] = {}
    for fault in faults:
        field = str(fault.get("field")) if isinstance(fault, dict) else ""
        found = _PLACE.match(field)
        if found is None or int(found[1]) >= count:
            return {}
        message = f"{field[found.end() :].lstrip('.') or 'item'}: {fault.get('message')}."
        named.setdefault(int(found[1]), ItemError.from_error(error, message))
    return named


Part = Callable[[Ask], Generator[Step, Any, Any]]
"""One request, or one chunk of a call with several; returns what the call puts together."""
