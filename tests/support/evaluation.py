"""Benchmarks of a few rows, and judges with a known opinion, for tests of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.aggregation import combine
from service.types import OrderReading, Verdict
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Failure, Item, Judged
from training.evaluation.results import Result, ScoreLine, evaluate

Opinion = tuple[float, float] | Failure
"""P(right response better), with it shown first and shown second."""

RIGHT: Opinion = (0.9, 0.9)
WRONG: Opinion = (0.1, 0.1)
FAILED: Opinion = Failure("invalid_verdict", "no verdict")


def items_of(name: str, rows: Sequence[Mapping[str, Any]], file: str = "rows.jsonl", seed: int = 0) -> list[Item]:
    """The items a benchmark makes of rows."""
    return BENCHMARKS[name].items([Row(file, i, dict(row)) for i, row in enumerate(rows, start=1)], seed)


def outcome(item: Item, opinion: Opinion) -> Verdict | Failure:
    """A verdict with that opinion of the right response, whatever position it has."""
    if isinstance(opinion, Failure):
        return opinion
    first, second = opinion
    p_ab, p_ba = (first, 1.0 - second) if item.pair.label == "a" else (1.0 - second, first)
    return combine(*(OrderReading(p, math.log(p / (1.0 - p)), 0.98) for p in (p_ab, p_ba)))


def judged(items: Sequence[Item], opinion: Callable[[Item], Opinion]) -> list[Judged]:
    return [Judged(item, outcome(item, opinion(item))) for item in items]


def result_of(name: str, items: Sequence[Item], opinion: Callable[[Item], Opinion]) -> Result:
    return evaluate(BENCHMARKS[name], judged(items, opinion), judge="test", version="test@1")


def lines_of(result: Result) -> dict[str, ScoreLine]:
    """Scores by the name they are shown under."""
    return {line.title: line for line in result.scores}
