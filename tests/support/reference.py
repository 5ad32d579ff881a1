"""The statistics of a window by their definition: what every store's figures are compared with, bit for bit.

Shares no code with `service.normalization`, so that a mistake there is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from service.normalization import WindowStats
from service.stores.base import CommitResult


def reference_stats(scores: Sequence[float]) -> WindowStats:
    """Rational arithmetic, rounded where floats must round: sums, quotients, differences, squares."""
    if not scores:
        return WindowStats(0, 0.0, 0.0)
    mean = float(sum(map(Fraction, scores))) / len(scores) + 0.0
    squares = [(score - mean) ** 2 for score in scores]
    return WindowStats(len(scores), mean, math.sqrt(float(sum(map(Fraction, squares))) / len(scores)))


def expected_stats(history: Sequence[float], window: int) -> WindowStats:
    """Statistics of the last `window` of all scores that ever entered."""
    return reference_stats([score + 0.0 for score in history[-window:]])


def same_bits(one: WindowStats, other: WindowStats) -> bool:
    return repr(one) == repr(other)


def check_replay(results: Iterable[CommitResult], window: int) -> list[float]:
    """All scores in seq order, once the replies of one epoch have neither gap nor double and every statistic is that
    of its window after the commit."""
    history: list[float] = []
    epochs = set()
    for result in sorted(results, key=lambda result: result.seq_first):
        assert result.seq_first == len(history) + 1, "a gap or a double in seq"
        history += result.scores
        assert result.seq_last == len(history)
        assert same_bits(result.stats, expected_stats(history, window))
        epochs.add(result.epoch)
    assert len(epochs) == 1
    return history
