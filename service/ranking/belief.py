"""What judged pairs say about strengths, and how sure that is when the answers are probabilities.

Bradley-Terry strengths are fitted as everywhere here (`service.ranking.strength`): a fractional response under a
logit link, whose estimating equations need no more than a right mean (Papke and Wooldridge 1996, Journal of Applied
Econometrics 11, 619). Its usual standard errors take each answer for one coin flip. A judge's answer is far better
than that: p = 0.98 is not one win, it is log-odds of 3.9 up to the judge's own noise. So the noise is a second
parameter: an answer's log-odds scatter around the difference of strengths with variance ``noise`` (nats**2), which is
Wedderburn's variance function (p (1 - p))**2 for fractions (1974, https://doi.org/10.1093/biomet/61.3.439). Errors
follow from it by the sandwich A K A (Huber 1967; White 1982, https://doi.org/10.2307/1912526): A the inverse
information of the fit, K the weighted Laplacian of the pairs with noise * (p (1 - p))**2.

``noise`` is estimated from what the fit leaves unexplained - cycles, saturation, style - in every pair judged so far:
the symmetrised Kullback-Leibler divergence between answer and fit, which is residual**2 / 4 for close pairs and does
not explode for lopsided ones. Few pairs say little about it, so it starts as `PRIOR_NOISE` with the weight of
`PRIOR_PAIRS` even pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub

from service.ranking.strength import (
    PRIOR_PRECISION,
    JudgedPairs,
    WinMatrix,
    cholesky,
    dot,
    fit_strengths,
    information,
    inverse,
    judged_pairs,
    win_probability,
)

PRIOR_NOISE = 1.0
"""nats**2; one standard deviation turns 0.5 into 0.73."""
PRIOR_PAIRS = 4.0
SPREAD = 25.0
"""Variance of strengths before anything was judged, nats**2: what an unjudged response may turn out to be."""

_LARGEST_LOG_ODDS = 36.0
"""Where a probability in 64 bits becomes 1."""

Matrix = list[list[float]]
WeightedPairs = list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True)
class Belief:
    """Strengths (nats, mean 0) of n responses after some pairs, and what they would still move by after all pairs.

    ``now`` and ``complete`` are inverse informations [n, n] of the judged pairs and of all pairs. Judged pairs and
    their (p (1 - p))**2 stand in ``judged``, for they are few; ``open`` is the Laplacian [n, n] of that over the rest.
    """

    strengths: list[float]
    noise: float
    now: Matrix
    complete: Matrix
    judged: WeightedPairs
    open: Matrix

    def standard_errors(self) -> list[float]:
        """Of each strength, nats: the judge's noise in the judged pairs, and what the weak prior pulls it by."""
        n = len(self.strengths)
        return [math.sqrt(self._variance([a - 1.0 / n for a in row])) for row in self.now]

    def _variance(self, moved: list[float]) -> float:
        scatter = sum([weight * (moved[i] - moved[j]) ** 2 for i, j, weight in self.judged])
        return self.noise * scatter + PRIOR_PRECISION**2 * SPREAD * dot(moved, moved)

    def still_to_move(self, i: int, j: int) -> float:
        """Standard deviation, nats, of how strength i - j would change if every pair were judged.

        0 when all are: the judge asked again says the same, so that what remains is its opinion and no more to be had.
        """
        after = list(map(sub, self.complete[i], self.complete[j]))
        change = list(map(sub, map(sub, self.now[i], self.now[j]), after))
        return math.sqrt(max(self._variance(change) + self.noise * _form(self.open, after), 0.0))

    def gain(self, i: int, j: int) -> float:
        """Expected information, nats, of judging i against j: most for a close pair of which little is known.

        ln(1 + w * v) / 2 with the pair's information w and its difference's variance v in the fit (MacKay 1992,
        https://doi.org/10.1162/neco.1992.4.4.590); w is averaged over what the difference may be.
        """
        spread = self.now[i][i] + self.now[j][j] - 2.0 * self.now[i][j]
        shrink = 1.0 / math.sqrt(1.0 + math.pi / 8.0 * self.noise * spread)
        p = win_probability(shrink * (self.strengths[i] - self.strengths[j]))
        return 0.5 * math.log1p(shrink * p * (1.0 - p) * spread)


def believe(wins: WinMatrix, start: Sequence[float] | None = None) -> Belief:
    """The belief after the judged pairs of ``wins``; ``start`` (earlier strengths) only makes it quicker. O(n**3)."""
    n, pairs = len(wins), judged_pairs(wins)
    strengths = fit_strengths(n, pairs, start)
    now = inverse(cholesky(information(strengths, pairs)))
    rest = [(i, j, 0.5) for i in range(n) for j in range(i + 1, n) if wins[i][j] is None]
    complete = inverse(cholesky(information(strengths, pairs + rest))) if rest else now
    noise = _noise(strengths, pairs, now)
    return Belief(strengths, noise, now, complete, _squared(strengths, pairs), _laplacian(n, _squared(strengths, rest)))


def _noise(strengths: Sequence[float], pairs: JudgedPairs, now: Matrix) -> float:
    unexplained, free = PRIOR_NOISE * PRIOR_PAIRS, PRIOR_PAIRS
    for i, j, p in pairs:
        difference = strengths[i] - strengths[j]
        fitted = win_probability(difference)
        weight = fitted * (1.0 - fitted)
        residual = _log_odds(p) - difference
        leverage = min(weight * (now[i][i] + now[j][j] - 2.0 * now[i][j]), 1.0)
        unexplained += 4.0 * (p - fitted) * residual
        slope = (p - fitted) / residual if abs(residual) > 1e-6 else weight
        free += 4.0 * slope * (1.0 - leverage)
    return unexplained / free


def _squared(strengths: Sequence[float], pairs: JudgedPairs) -> WeightedPairs:
    """The pairs with (p (1 - p))**2 of the fit in place of their answers."""
    fitted = ((i, j, win_probability(strengths[i] - strengths[j])) for i, j, _ in pairs)
    return [(i, j, (p * (1.0 - p)) ** 2) for i, j, p in fitted]


def _laplacian(n: int, pairs: WeightedPairs) -> Matrix:
    laplacian = [[0.0] * n for _ in range(n)]
    for i, j, weight in pairs:
        laplacian[i][i] += weight
        laplacian[j][j] += weight
        laplacian[i][j] -= weight
        laplacian[j][i] -= weight
    return laplacian


def _form(matrix: Matrix, x: Sequence[float]) -> float:
    return dot(x, [dot(row, x) for row in matrix])


def _log_odds(p: float) -> float:
    if p <= 0.0 or p >= 1.0:
        return math.copysign(_LARGEST_LOG_ODDS, p - 0.5)
    return math.log(p) - math.log1p(-p)
