"""Intervals, paired tests and calibration: what every accuracy of this project is printed with.

Samples of one prompt (one *cluster*) are not independent - nine style pairs of RM-Bench, every list of RMB - and an
interval that forgets it is too narrow. Arrays are one-dimensional and aligned: entry i is sample i. All probabilities
and accuracies lie in [0, 1]; log-odds are nats. Every random draw has a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

Z95 = 1.959964
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval. ``clusters`` is how many independent prompts stand behind it."""

    value: float
    low: float
    high: float
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson_interval(correct: float, total: float) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson's score interval, which stays sound near 1). ``total`` may be effective.

    It lies in [0, 1] and holds the proportion, also where rounding would put an end past it.
    """
    p, zz = correct / total, Z95 * Z95 / total
    middle, half = p + zz / 2, Z95 * math.sqrt(p * (1 - p) / total + zz / (4 * total))
    return min(p, max(0.0, (middle - half) / (1 + zz))), max(p, min(1.0, (middle + half) / (1 + zz)))


def clustered_interval(
    values: Sequence[float] | Floats,
    clusters: Sequence[str],
    cells: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Interval:
    """A mean of values in [0, 1] with an interval that knows which samples share a prompt.

    With ``weights``, the weighted mean of the cells' means (sections, domains), the weights brought to the sum 1;
    without, the plain mean. The variance is the cluster-robust one of the linearised mean (Liang & Zeger 1986; for
    benchmarks: Miller 2024, arXiv 2411.00640, there as ``mean +- 1.96 SE``, which leaves [0, 1] and has no width at
    100 %). It becomes an effective sample size, lowered where clusters are few (Korn & Graubard 1998), and that a
    Wilson interval (Dean & Pagano 2015), which does neither and equals `wilson_interval` when every sample is its own
    cluster. At 0 or 1 the effective size is that of the clusters.
    Raises `ValueError` for no samples, a cell without weight, a weight without samples.
    """
    data = np.asarray(values, dtype=np.float64)
    names = ["" for _ in clusters] if cells is None or weights is None else list(cells)
    shares = _shares(names, weights if cells is not None and weights is not None else {"": 1.0})
    codes, kinds = _codes(clusters), _codes(names)
    order = dict(zip(names, kinds.tolist(), strict=True))
    sizes = np.bincount(kinds).astype(np.float64)
    means = np.bincount(kinds, data) / sizes
    share = np.array([shares[name] for name in sorted(order, key=order.__getitem__)])
    value = min(1.0, max(0.0, float(share @ means)))
    influence = np.bincount(codes, (share / sizes)[kinds] * (data - means[kinds]))
    count = int(codes.max()) + 1
    variance = float(influence @ influence) * _few(data.size, count, share.size)
    return _as_interval(value, variance, count, _flat_size(share, kinds, codes))


def _few(samples: int, clusters: int, cells: int) -> float:
    """What the variance between few clusters is too small by, as a factor: 1 when every sample is its own cluster.

    Its degrees of freedom are the clusters' beyond one a cell, not the samples'; so are those of the quantile.
    """
    wide, narrow = max(samples - cells, 1), max(clusters - cells, 1)
    quantiles = scipy.stats.t.ppf(0.975, [narrow, wide])
    return float((quantiles[0] / quantiles[1]) ** 2 * (clusters / narrow) / (samples / wide))


def _flat_size(share: Floats, kinds: Integers, codes: Integers) -> float:
    """Effective number of clusters where no variance can be seen: as if every cluster voted as one."""
    pairs = np.unique(np.stack([kinds, codes]), axis=1)
    per_cell = np.bincount(pairs[0], minlength=share.size)
    return float(1.0 / np.sum(share**2 / per_cell))


def _as_interval(value: float, variance: float, clusters: int, flat_size: float) -> Interval:
    spread = value * (1.0 - value)
    if spread <= 1e-12 or variance <= 1e-18:
        effective = flat_size
    else:
        effective = spread / variance
    low, high = wilson_interval(value * effective, effective)
    return Interval(value, min(value, max(0.0, low)), max(value, min(1.0, high)), clusters)


def _shares(names: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    present = set(names)
    if not present:
        raise ValueError("There are no samples to average.")
    if missing := sorted(present ^ set(weights)):
        raise ValueError(f"Weights and samples must name the same cells; {missing[0]} is in one of them only.")
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _codes(names: Sequence[str]) -> Integers:
    """Names as numbers 0, 1, ... in order of first appearance."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def cluster_bootstrap(
    clusters: Sequence[str], statistic: Callable[[Integers], float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of any statistic of the samples: whole clusters are drawn with replacement.

    ``statistic`` is handed the indices of a resample (a sample may come several times). For a mean,
    `clustered_interval` is exact, faster and sound near 0 and 1; this is for ECE, ratios, medians.
    """
    codes = _codes(clusters)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    rng = np.random.default_rng(seed)
    seen = np.array(
        [
            statistic(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]))
            for _ in range(draws)
        ]
    )
    low, high = np.nanquantile(seen, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """``difference`` is the first judge's mean minus the second's, with its 95 % interval; ``p`` is two-sided."""

    difference: float
    low: float
    high: float
    p: float
    clusters: int
    first_only: int
    second_only: int


def paired_test(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    clusters: Sequence[str],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Two judges on the same samples: is one better?

    ``p`` is a sign-flip permutation test with whole clusters flipped together (exact enumeration up to 2**13 flips,
    else ``draws`` seeded ones; Ernst 2004), the interval cluster-robust with Student's t. With every sample its own
    cluster and right/wrong values this is McNemar's test, which `mcnemar` gives exactly.
    """
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if gap.size == 0:
        raise ValueError("There are no samples to compare.")
    codes = _codes(clusters)
    sums = np.bincount(codes, gap).astype(np.float64)
    sizes = np.bincount(codes).astype(np.float64)
    count, mean = sums.size, float(gap.mean())
    error = math.sqrt(float(np.sum((sums - mean * sizes) ** 2)) * count / max(count - 1, 1)) / gap.size
    half = error * float(scipy.stats.t.ppf(0.975, max(count - 1, 1)))
    return PairedTest(
        difference=mean,
        low=mean - half,
        high=mean + half,
        p=_sign_flip(sums, draws, seed),
        clusters=count,
        first_only=int(np.sum(gap > 0)),
        second_only=int(np.sum(gap < 0)),
    )


def _sign_flip(sums: Floats, draws: int, seed: int) -> float:
    """P(|sum of randomly signed cluster sums| >= the observed)."""
    sums = sums[sums != 0.0]
    if sums.size == 0:
        return 1.0
    seen = abs(float(sums.sum())) - 1e-9
    if sums.size <= 13:
        signs = 1.0 - 2.0 * ((np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1)
        return float(np.mean(np.abs(signs @ sums) >= seen))
    rng = np.random.default_rng(seed)
    hits = sum(
        int(np.sum(np.abs((1.0 - 2.0 * rng.integers(0, 2, (size, sums.size))) @ sums) >= seen))
        for size in _batches(draws, 500)
    )
    return (hits + 1) / (draws + 1)


def _batches(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p of McNemar's test: of the samples only one judge got right, how many went to each."""
    if first_only + second_only == 0:
        return 1.0
    return float(scipy.stats.binomtest(first_only, first_only + second_only).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several tests, in input order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Samples whose confidence fell between ``low`` and ``high``."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence and accuracy are apart, as judged and after the one temperature that fits best.

    ``temperature`` > 1: over-confident. ``nll`` is nats a sample. The temperature is fitted on the samples themselves:
    one parameter, so the optimism is small from a few hundred samples on, and what is called *after* is a lower bound.
    """

    ece: float
    nll: float
    temperature: float
    ece_after: float
    nll_after: float
    bins: tuple[CalibrationBin, ...]


def calibration(log_odds_right: Sequence[float] | Floats, bins: int = 10) -> Calibration:
    """Calibration of a pairwise judge from the log-odds it gave the better response of each pair (nats).

    Its confidence is max(p, 1 - p), in [0.5, 1], in equal bins; a tie is half right. ECE as Guo et al. 2017 (arXiv
    1706.04599), who also fit the temperature by likelihood; it is biased upwards on few samples.
    """
    odds = np.asarray(log_odds_right, dtype=np.float64)
    if odds.size == 0 or not np.all(np.isfinite(odds)):
        raise ValueError("Calibration needs at least one sample, and finite log-odds.")
    temperature = fit_temperature(odds)
    table = _bins(odds, bins)
    return Calibration(
        _ece(table), _nll(odds), temperature, _ece(_bins(odds / temperature, bins)), _nll(odds / temperature), table
    )


def fit_temperature(log_odds_right: Sequence[float] | Floats) -> float:
    """The T that makes sigma(log-odds / T) most likely, from 0.01 (every sample right) to 100 (chance or worse)."""
    odds = np.asarray(log_odds_right, dtype=np.float64)
    bound = math.log(100.0)
    found = scipy.optimize.minimize_scalar(
        lambda log_t: _nll(odds * math.exp(-log_t)), bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}
    )
    return float(math.exp(found.x))


def expected_calibration_error(log_odds_right: Sequence[float] | Floats, bins: int = 10) -> float:
    """ECE alone, for `cluster_bootstrap` and for periodic evaluation."""
    return _ece(_bins(np.asarray(log_odds_right, dtype=np.float64), bins))


def _nll(odds: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, -odds)))


def _bins(odds: Floats, bins: int) -> tuple[CalibrationBin, ...]:
    confidence = 1.0 / (1.0 + np.exp(-np.abs(odds)))
    right = np.where(odds > 0, 1.0, np.where(odds < 0, 0.0, 0.5))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, minlength=bins), np.bincount(place, right, minlength=bins)
    edges = [0.5 + i / (2 * bins) for i in range(bins + 1)]
    return tuple(
        CalibrationBin(edges[i], edges[i + 1], int(n), float(sums[0][i] / n), float(sums[1][i] / n))
        for i, n in enumerate(count)
        if n
    )


def _ece(table: Sequence[CalibrationBin]) -> float:
    total = sum(b.count for b in table)
    return math.fsum(b.count / total * abs(b.confidence - b.accuracy) for b in table)
