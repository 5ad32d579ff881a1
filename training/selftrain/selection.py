"""Which of several proofs is kept: GRAM-R2's ratio score (arXiv 2509.02492, equation 5) and what it is compared with.

    Score(z) = - log pi(z | s, l) / log pi(z)   in (-inf, 0]

pi is the prover, s the question with its responses, l the label. A proof scores high when it is probable given what
it speaks of and improbable by itself; a text that would suit any pair is as probable without the pair, and scores -1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Policy = Literal["ratio", "likelihood", "first", "random"]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probabilities of one proof in nats, summed over its tokens: given pair and label, and alone."""

    given: float
    alone: float

    @property
    def score(self) -> float:
        """The ratio; NaN where a probability is not finite, -inf for a proof that is certain without its pair."""
        if not (math.isfinite(self.given) and math.isfinite(self.alone)):
            return math.nan
        return -math.inf if self.alone >= 0.0 else -(self.given / self.alone)


def choose(candidates: Sequence[Likelihoods | None], policy: Policy, seed: int) -> int | None:
    """The index of the proof to keep; of equal ones the first. None where no candidate can be chosen.

    ``likelihood`` takes the most probable given the pair, ``first`` and ``random`` look at no probability (the
    candidates' own may be None for them); ``seed`` decides ``random``.
    """
    if not candidates:
        return None
    if policy == "first":
        return 0
    if policy == "random":
        return Random(f"proof/{seed}").randrange(len(candidates))
    values = [_value(candidate, policy) for candidate in candidates]
    sound = [i for i, value in enumerate(values) if not math.isnan(value)]
    return max(sound, key=lambda i: values[i]) if sound else None


def _value(candidate: Likelihoods | None, policy: Policy) -> float:
    if candidate is None:
        return math.nan
    if policy == "ratio":
        return candidate.score
    return candidate.given if math.isfinite(candidate.given) else math.nan
