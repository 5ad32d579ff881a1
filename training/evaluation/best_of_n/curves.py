"""From n samples' scores to the curve of best-of-k for every k up to n: pure, exact, no draws.

The mean over all subsets of k of the N samples has a closed form (Nakano et al. 2021, WebGPT, arXiv 2112.09332,
appendix I; used for over-optimisation by Gao et al. 2022, arXiv 2210.10760): with samples in ascending order of the
proxy score, sample i (1, 2, ...) is the best of its subset in C(i - 1, k - 1) of C(N, k) subsets. It is the unbiased
estimate of best-of-k with the least variance; drawing k samples afresh for each k would waste most of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def best_of_k(proxy: Sequence[float], values: Sequence[float], k: int) -> float:
    """Expected value of the sample that the proxy score picks from a random subset of ``k``; ties are drawn fairly.

    ``proxy`` and ``values`` are of the same N >= k samples. With ``values = proxy`` it is the proxy's own curve.
    """
    scores, gold = np.asarray(proxy, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if not 1 <= k <= scores.size == gold.size:
        raise ValueError(
            f"best-of-{k} needs as many values as scores, and at least {k}; got {gold.size}, {scores.size}."
        )
    levels, level = np.unique(scores, return_inverse=True)
    sizes = np.bincount(level, minlength=levels.size)
    means = np.bincount(level, gold, minlength=levels.size) / sizes
    below = [0, *map(int, np.cumsum(sizes))]
    total = math.comb(scores.size, k)
    share = [(math.comb(up, k) - math.comb(down, k)) / total for down, up in pairwise(below)]
    return float(np.dot(share, means))


def kl_bound(k: int) -> float:
    """log k - (k - 1) / k, in nats: the KL of best-of-k from the policy (Stiennon et al. 2020, arXiv 2009.01325).

    An upper bound, and exact where no two samples are equal (Beirami et al. 2024, arXiv 2401.01879); a policy with few
    different answers moves less.
    """
    return math.log(k) - (k - 1) / k


def doublings(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself."""
    steps = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return steps if steps[-1] == n else [*steps, n]


def spearman(proxy: Sequence[float], values: Sequence[float]) -> float:
    """Rank correlation of the two scores; NaN where one of them says nothing (all equal)."""
    first, second = _ranks(proxy), _ranks(values)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Sequence[float]) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, level = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    sizes = np.bincount(level)
    ranks: Floats = (np.cumsum(sizes) - (sizes + 1) / 2.0)[level]
    return ranks
