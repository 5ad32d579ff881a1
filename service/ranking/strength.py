"""Bradley-Terry strengths with standard errors from a matrix of win probabilities.

P(i better than j) = sigma(s_i - s_j). The model is Bradley and Terry's (https://doi.org/10.2307/2334029); when its
maximum is unique and how else to find it is in Hunter 2004 (https://doi.org/10.1214/aos/1079120141). A judged pair is
one observation, won in part by each side: the fit maximizes sum p ln P + (1 - p) ln (1 - P) over the judged pairs.

Where one response always wins, that maximum lies at infinity, and where the pairs do not connect all responses it is
not unique. A normal prior on each strength (mean 0, precision `PRIOR_PRECISION`) makes it finite and unique; it is so
weak that a single pair judged 0.99 keeps 96 % of its log-odds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

PRIOR_PRECISION = 1e-3
"""1 / variance of a strength before anything was judged, in nats**-2: a standard deviation of 32 nats."""

_MAX_STEPS = 100
_TOLERANCE = 1e-10
"""Newton stops when no strength moves by more than this many nats."""

WinMatrix = Sequence[Sequence[float | None]]
"""``[i][j]`` is P(i better than j), None where not judged; ``[j][i]`` must be its complement."""

JudgedPairs = list[tuple[int, int, float]]
"""(i, j, P(i better than j)) of the judged pairs, i < j."""


def bradley_terry(wins: WinMatrix) -> tuple[list[float], list[float]]:
    """Log-strengths (nats, mean 0) and their standard errors, one for each of the n rows of `wins`.

    Standard errors come from the inverse of the observed information with the prior, on the subspace of mean 0 (only
    differences of strengths are observed). They treat each judged pair as one independent observation.
    """
    pairs = judged_pairs(wins)
    strengths = fit_strengths(len(wins), pairs)
    return strengths, _standard_errors(cholesky(information(strengths, pairs)))


def judged_pairs(wins: WinMatrix) -> JudgedPairs:
    n = len(wins)
    return [(i, j, p) for i in range(n) for j in range(i + 1, n) if (p := wins[i][j]) is not None]


def fit_strengths(n: int, pairs: JudgedPairs, start: Sequence[float] | None = None) -> list[float]:
    """The log-strengths of n responses (nats, mean 0) that explain the judged pairs best.

    Newton's method with step halving on a strictly concave objective, O(n**3) a step; about ten steps are usual, fewer
    from a good ``start`` (of mean 0), which changes the result by rounding only.
    """
    strengths = [0.0] * n if start is None else list(start)
    value = _objective(strengths, pairs)
    for _ in range(_MAX_STEPS):
        step = _solve(cholesky(information(strengths, pairs)), _gradient(strengths, pairs))
        reached, value = _advance(strengths, step, value, pairs)
        moved = max(abs(a - b) for a, b in zip(reached, strengths, strict=True))
        strengths = reached
        if moved < _TOLERANCE:
            break
    return strengths


def win_probability(difference: float) -> float:
    """sigma(difference of log-strengths), without overflow."""
    if difference >= 0.0:
        return 1.0 / (1.0 + math.exp(-difference))
    return 1.0 - 1.0 / (1.0 + math.exp(difference))


def _advance(at: list[float], step: list[float], value: float, pairs: JudgedPairs) -> tuple[list[float], float]:
    """The point after the longest of the steps 1, 1/2, 1/4 .. that does not lose; none found means converged."""
    for halvings in range(40):
        candidate = [s + d / 2**halvings for s, d in zip(at, step, strict=True)]
        reached = _objective(candidate, pairs)
        if reached >= value:
            return candidate, reached
    return at, value


def _objective(strengths: list[float], pairs: JudgedPairs) -> float:
    fit = math.fsum(
        -p * _log1p_exp(strengths[j] - strengths[i]) - (1.0 - p) * _log1p_exp(strengths[i] - strengths[j])
        for i, j, p in pairs
    )
    return fit - 0.5 * PRIOR_PRECISION * math.fsum(s * s for s in strengths)


def _log1p_exp(x: float) -> float:
    """ln(1 + e**x) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _gradient(strengths: list[float], pairs: JudgedPairs) -> list[float]:
    gradient = [-PRIOR_PRECISION * s for s in strengths]
    for i, j, p in pairs:
        surprise = p - win_probability(strengths[i] - strengths[j])
        gradient[i] += surprise
        gradient[j] -= surprise
    return gradient


def information(strengths: list[float], pairs: JudgedPairs) -> list[list[float]]:
    """Negative Hessian [n, n] with the prior, where the common level of all strengths has information 1.

    No pair observes that level, and the prior would leave it a huge variance. The level is an eigenvector of its own,
    so this moves no solution of mean 0, keeps the matrix well conditioned and puts exactly 1/n everywhere in its
    inverse.
    """
    n = len(strengths)
    information = [[(1.0 - PRIOR_PRECISION) / n] * n for _ in range(n)]
    for i in range(n):
        information[i][i] += PRIOR_PRECISION
    for i, j, _ in pairs:
        q = win_probability(strengths[i] - strengths[j])
        weight = q * (1.0 - q)
        information[i][i] += weight
        information[j][j] += weight
        information[i][j] -= weight
        information[j][i] -= weight
    return information


def cholesky(matrix: list[list[float]]) -> list[list[float]]:
    """Lower-triangular L with L L' = matrix (symmetric positive definite, [n, n])."""
    lower: list[list[float]] = []
    for i, row in enumerate(matrix):
        built: list[float] = []
        for j, above in enumerate(lower):
            built.append((row[j] - dot(built, above)) / above[j])
        built.append(math.sqrt(row[i] - dot(built, built)))
        lower.append(built)
    return lower


def dot(left: Sequence[float], right: Sequence[float]) -> float:
    """Over the shorter of the two. The inner loop: `map` is four times as fast as a generator."""
    total: float = sum(map(mul, left, right))
    return total


def _solve(lower: list[list[float]], right: list[float]) -> list[float]:
    """x with L L' x = right."""
    n = len(lower)
    x: list[float] = []
    for i in range(n):
        x.append((right[i] - dot(x, lower[i])) / lower[i][i])
    for i in reversed(range(n)):
        x[i] = (x[i] - sum(lower[j][i] * x[j] for j in range(i + 1, n))) / lower[i][i]
    return x


def _standard_errors(lower: list[list[float]]) -> list[float]:
    """Square roots of the diagonal of (L L')**-1, less the 1/n that `information` put there."""
    n = len(lower)
    errors = []
    for i in range(n):
        # The i-th diagonal entry of the inverse is |L**-1 e_i|**2, and that vector is zero above row i.
        column: list[float] = []
        for row in range(i, n):
            unit = 1.0 if row == i else 0.0
            column.append((unit - dot(column, lower[row][i:row])) / lower[row][row])
        errors.append(math.sqrt(max(dot(column, column) - 1.0 / n, 0.0)))
    return errors


def inverse(lower: list[list[float]]) -> list[list[float]]:
    """(L L')**-1 in full, [n, n]."""
    n = len(lower)
    columns: list[list[float]] = []  # of L**-1, each from its diagonal entry down
    for i in range(n):
        column = [1.0 / lower[i][i]]
        for row in range(i + 1, n):
            column.append(-dot(column, lower[row][i:row]) / lower[row][row])
        columns.append(column)
    full = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i, n):
            full[i][j] = full[j][i] = dot(columns[i][j - i :], columns[j])
    return full
