"""Scores to rewards: exact statistics of a window of recent scores, and the z-score made from them.

Statistics are computed afresh in two passes with `math.fsum` at every commit. A running sum would be cheaper and wrong:
one 1e12 that passed through a sliding Welford update leaves a negative variance behind, and plain `sum` depends on the
order of its terms. `fsum` is correctly rounded, so the same window gives the same bits on every replica and store
(about 0.1 ms for 1000 scores).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import InternalError, InvalidInput, JudgmentFailed, NonFiniteScore

MAX_ABS_SCORE = 1e6
"""No judge scores beyond this. The bound keeps squares, and so the variance, far away from overflow."""

MIN_STD = 1e-6
"""Below this spread a window says nothing: dividing by it would turn rounding noise into rewards."""

MAX_SCALE = 1e6


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Population statistics of a window (divisor N). An empty window has count 0, mean 0.0 and std 0.0."""

    count: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Reward:
    """``clipped`` says that the z-score lay outside the clip and was moved to its edge."""

    reward: float
    clipped: bool


@dataclass(frozen=True, slots=True)
class Normalized:
    """Rewards in score order. ``normalized`` is false while the window is too young (rewards are then the raw scores);
    ``degenerate`` says that the window has no spread and every reward is 0.0."""

    rewards: tuple[Reward, ...]
    normalized: bool
    degenerate: bool


def check_scores(scores: Sequence[float]) -> tuple[float, ...]:
    """The scores as plain floats, ready to enter a window; -0.0 becomes 0.0, since not every store keeps its sign.

    Raises `NonFiniteScore` for NaN and infinities, `JudgmentFailed` beyond `MAX_ABS_SCORE`, `InternalError` for
    anything that is not a float (ints and bools reach a window only by a mistake of ours).
    """
    for score in scores:
        if not isinstance(score, float):
            raise InternalError("Only floats may enter a reward window; report this with the request id.")
        if not math.isfinite(score):
            raise NonFiniteScore("The judge gave a score that is not a finite number; check the checkpoint.")
        if abs(score) > MAX_ABS_SCORE:
            raise JudgmentFailed(f"The judge gave a score beyond {MAX_ABS_SCORE:.0f}; check the checkpoint's head.")
    return tuple(float(score) + 0.0 for score in scores)


def window_stats(scores: Sequence[float]) -> WindowStats:
    """Exact two-pass statistics of `scores` (already checked). The same for every order of the scores, bit for bit."""
    count = len(scores)
    if count == 0:
        return WindowStats(0, 0.0, 0.0)
    mean = math.fsum(scores) / count + 0.0  # + 0.0: an underflow to -0.0 would not survive every store
    variance = math.fsum((score - mean) ** 2 for score in scores) / count
    return WindowStats(count, mean, math.sqrt(variance))


def normalize(
    scores: Sequence[float], stats: WindowStats, scale: float = 1.0, min_count: int = 16, clip: float = 10.0
) -> Normalized:
    """Rewards of one request, all made from the same statistics: ``scale * clip((score - mean) / std, +-clip)``.

    A window younger than `min_count` gives the scores back, unscaled. A window without spread gives 0.0 throughout.
    GRAM's PPO uses a window of 1000 and scale 10 (https://arxiv.org/abs/2506.14175).
    Raises `InvalidInput` for a scale, min_count or clip out of range, and what `check_scores` raises.
    """
    checked = check_scores(scores)
    if not 0.0 < scale <= MAX_SCALE:
        raise InvalidInput(f"Set normalize.scale above 0 and at most {MAX_SCALE:.0f}.")
    if not 0.0 < clip <= MAX_SCALE:
        raise InvalidInput(f"Set normalize.clip above 0 and at most {MAX_SCALE:.0f}.")
    if min_count < 1:
        raise InvalidInput("Set normalize.min_count to 1 or more.")
    if stats.count < min_count:
        return Normalized(tuple(Reward(score, False) for score in checked), normalized=False, degenerate=False)
    if stats.std < MIN_STD:
        return Normalized(tuple(Reward(0.0, False) for _ in checked), normalized=True, degenerate=True)
    return Normalized(tuple(_reward(score, stats, scale, clip) for score in checked), normalized=True, degenerate=False)


def _reward(score: float, stats: WindowStats, scale: float, clip: float) -> Reward:
    z = (score - stats.mean) / stats.std
    return Reward(scale * min(max(z, -clip), clip), clipped=abs(z) > clip)
