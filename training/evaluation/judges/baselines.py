"""Judges that read nothing. They go the same road as real ones, so that a number has its zero beside it.

* ``length``: the longer response. What it scores above one half is what style alone gives away.
* ``random``: a seeded coin for each order of each pair; about half of its pairs contradict themselves.
* ``first``: the response shown first, always: one half in single orders, nothing once both orders are averaged.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from service.aggregation import combine
from service.types import OrderReading, Verdict
from training.data.pairs import Pair
from training.evaluation.items import Failure

SURE = 20.0
"""Log-odds (nats) of a baseline that has no doubt: finite, as every margin must be."""

Opinion = Callable[[Pair, int], tuple[float, float]]
"""P(a better) when a is shown first, P(b better) when b is shown first."""


class Baseline:
    """One of `BASELINES`, by name."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self._seed = seed
        self._opinion = BASELINES[name]

    @property
    def version(self) -> str:
        return f"baseline-{self.name}" + (f"-{self._seed}" if self.name == "random" else "")

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        return [combine(*(_reading(p) for p in self._opinion(pair, self._seed))) for pair in pairs]


def _reading(p: float) -> OrderReading:
    odds = SURE if p >= 1.0 else -SURE if p <= 0.0 else math.log(p / (1.0 - p))
    return OrderReading(p, max(-SURE, min(SURE, odds)), None)


def _length(pair: Pair, seed: int) -> tuple[float, float]:
    a, b = len(pair.response_a), len(pair.response_b)
    return float(a > b) + 0.5 * (a == b), float(b > a) + 0.5 * (a == b)


def _random(pair: Pair, seed: int) -> tuple[float, float]:
    digest = hashlib.sha256(f"{seed}/{pair.id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48, int.from_bytes(digest[6:12], "big") / 2**48


def _first(pair: Pair, seed: int) -> tuple[float, float]:
    return 1.0, 1.0


BASELINES: dict[str, Opinion] = {"length": _length, "random": _random, "first": _first}
