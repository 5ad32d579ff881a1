"""Is a judge still judging what it should? Six figures of its recent judgments, as pure functions.

A *sample* is one judgment as it was made: a pair in both display orders, or a single response of a scalar judge. Every
figure is computed afresh from the samples at hand with `math.fsum`, in two passes where a mean is subtracted, so that
it is exact, does not depend on their order and forgets a sample completely when it leaves.

What the figures are for: position bias and flips tell a judge that reads places instead of texts
(https://arxiv.org/abs/2305.17926), label mass one whose prompt no longer fits it, flags a policy that argues with the
judge, the length slope one that pays for words (https://arxiv.org/abs/2310.10076), drift scores that have left the
distribution they started in. Standard errors and intervals take samples as independent; the pairs of one group are not
quite, so they are a little too narrow.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.types import Comparison, Verdict

Z95 = 1.959963984540054
"""Two-sided 95 % of a normal distribution, in standard deviations."""
BINS = 10
MIN_DRIFT_COUNT = 20
"""Scores that each window needs before they are compared: two a bin."""
MAX_LEAD = 1e6
"""Raw scores are taken up to here, so that their squares stay finite; no working judge comes near."""
_EDGE = 1e-16
_MIN_SPREAD = 1e-12
"""Mean square of the length ratio's logarithm below which all lengths count as equal."""


class Sample(NamedTuple):
    """One judgment. ``bias`` (nats), ``flipped`` and ``label_mass`` are None where no label was read in two orders.

    A pair's ``lead`` is its margin (mean log-odds of the first response, nats) and ``log_length`` the logarithm of its
    length ratio, first over second. A single response's are its raw score and the logarithm of its length.
    """

    bias: float | None
    flipped: bool | None
    label_mass: float | None
    lead: float
    log_length: float
    single: bool = False


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error (sample standard deviation / sqrt(n)); None without data, stderr from n = 2."""

    mean: float | None = None
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A share in [0, 1] and its 95 % Wilson interval; None without data."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Mass:
    """Mean and minimum of p(A) + p(B) over the whole vocabulary, the smaller order of each pair; None without data."""

    mean: float | None = None
    min: float | None = None


@dataclass(frozen=True, slots=True)
class Flagged:
    """Share of rows with at least one flag, and for each code that occurred the share of rows with it."""

    share: float | None
    by_code: dict[str, float]


@dataclass(frozen=True, slots=True)
class Slope:
    """Nats (a scalar judge: score) for each factor e of length, with its standard error; None where undetermined."""

    value: float | None = None
    stderr: float | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the present window lies from the reference; see `psi` and `ks`. None while either is too small."""

    psi: float | None = None
    ks: float | None = None
    p_value: float | None = None
    reference_count: int = 0


@dataclass(frozen=True, slots=True)
class JudgeHealth:
    """The figures of one judge's recent judgments. ``comparisons`` counts the samples they were made from."""

    position_bias: Mean
    flip_rate: Share
    label_mass: Mass
    flagged: Flagged
    length_slope: Slope
    comparisons: int


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """What is published of a queue and judge. ``drift`` is the worst over the kinds of score the queue holds."""

    queue: str
    judge: str
    figures: JudgeHealth
    drift: Drift


def pair_sample(comparison: Comparison, verdict: Verdict) -> Sample | None:
    """The sample of a judged pair; None for identical responses, which are a tie without anybody being asked.

    Verdicts without label mass come from scalar judges, which have no display order to be biased by.
    """
    first, second = comparison.first.text, comparison.second.text
    if first == second:
        return None
    lead = min(max(verdict.margin, -MAX_LEAD), MAX_LEAD)
    log_ratio = math.log((len(first) + 1) / (len(second) + 1))  # + 1: a response may be empty
    if verdict.label_mass is None:
        return Sample(None, None, None, lead, log_ratio)
    bias = 0.5 * (log_odds(verdict.p_ab) + log_odds(verdict.p_ba))
    return Sample(bias, not verdict.consistent, verdict.label_mass, lead, log_ratio)


def pair_samples(comparisons: Sequence[Comparison], outcomes: Sequence[object]) -> list[Sample]:
    """The samples of those outcomes that are verdicts; each outcome is its comparison's."""
    made = [pair_sample(c, o) for c, o in zip(comparisons, outcomes, strict=True) if isinstance(o, Verdict)]
    return [sample for sample in made if sample is not None]


def single_sample(text: str, score: float) -> Sample:
    """The sample of a response that a scalar judge scored."""
    return Sample(None, None, None, min(max(score, -MAX_LEAD), MAX_LEAD), math.log(len(text) + 1), single=True)


def judge_health(samples: Sequence[Sample], rows: Sequence[Sequence[str]]) -> JudgeHealth:
    """Every figure but drift. ``rows`` holds the distinct flag codes of each recent row of a reply."""
    return JudgeHealth(
        mean([s.bias for s in samples if s.bias is not None]),
        wilson([s.flipped for s in samples if s.flipped is not None]),
        mass([s.label_mass for s in samples if s.label_mass is not None]),
        flagged(rows),
        length_slope(samples),
        len(samples),
    )


def log_odds(p: float) -> float:
    """Nats; bounded where floats end (about +-37)."""
    p = min(max(p, _EDGE), 1.0 - _EDGE)
    return math.log(p / (1.0 - p))


def mean(values: Sequence[float]) -> Mean:
    """Of position-bias logits: (s1 + s2) / 2 of each pair, s the log-odds of whichever response an order shows first.

    0 for a judge that does not mind places, positive for one that prefers what it reads first.
    """
    n = len(values)
    if n == 0:
        return Mean()
    centre = math.fsum(values) / n
    if n == 1:
        return Mean(centre)
    return Mean(centre, math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n))


def wilson(hits: Sequence[bool]) -> Share:
    """The share of true ones with Wilson's 95 % score interval, which stays in [0, 1] and holds for small samples.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference (JASA 22, 1927).
    """
    n = len(hits)
    if n == 0:
        return Share()
    share, z2 = sum(hits) / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Share(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def mass(values: Sequence[float]) -> Mass:
    """Mean and minimum."""
    return Mass(math.fsum(values) / len(values), min(values)) if values else Mass()


def flagged(rows: Sequence[Sequence[str]]) -> Flagged:
    """Share of rows with a flag, in all and by code. A row holds each of its codes once."""
    if not rows:
        return Flagged(None, {})
    counts = Counter(code for row in rows for code in row)
    return Flagged(
        sum(1 for row in rows if row) / len(rows), {code: counts[code] / len(rows) for code in sorted(counts)}
    )


def length_slope(samples: Sequence[Sample]) -> Slope:
    """Least squares of ``lead`` on ``log_length``, with an intercept of its own for pairs and for single responses.

    Lengths are characters (code points) plus one. A slope b says that a response e times as long leads by b nats more;
    b > 0: longer wins. The intercept takes what the naming of the responses means (policy first, reference second), so
    that a policy which is better *and* longer throughout is no length bias. Pairs and singles measure the same slope:
    where score = c + b log(length), the margin of a pair is b log(length ratio).
    The standard error is sqrt(RSS / (n - intercepts - 1) / Sxx). Undetermined without that many samples, or when all
    lengths are equal.
    """
    xs: list[float] = []
    ys: list[float] = []
    intercepts = 0
    for single in (False, True):
        kind = [(s.log_length, s.lead) for s in samples if s.single == single]
        if kind:
            intercepts += 1
            xs += _centred([x for x, _ in kind])
            ys += _centred([y for _, y in kind])
    spread, freedom = math.fsum(x * x for x in xs), len(xs) - intercepts - 1
    if freedom < 1 or spread <= _MIN_SPREAD * len(xs):
        return Slope()
    slope = math.fsum(x * y for x, y in zip(xs, ys, strict=True)) / spread
    residual = math.fsum((y - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Slope(slope, math.sqrt(residual / freedom / spread))


def drift(reference: Sequence[float], present: Sequence[float]) -> Drift:
    """The present window against the reference, two finite samples in any order."""
    if min(len(reference), len(present)) < MIN_DRIFT_COUNT:
        return Drift(reference_count=len(reference))
    reference, present = sorted(reference), sorted(present)
    distance = ks(reference, present)
    return Drift(psi(reference, present), distance, ks_p_value(distance, len(reference), len(present)), len(reference))


def psi(reference: Sequence[float], present: Sequence[float]) -> float:
    """Population stability index: sum over bins of (q - p) ln(q / p), never negative, 0 for equal shares.

    Bins end at the reference's deciles (linear interpolation); a value that several deciles share, as identical scores
    make it, is a bin of its own. Shares are smoothed by half a count a bin, so that an empty one stays finite.
    Without any drift its expectation is near 9 (1/n + 1/m). Convention: below 0.1 stable, above 0.25 shifted.
    Source: N. Siddiqi, Credit Risk Scorecards (2006).
    """
    cuts = _cuts(sorted(reference))
    p, q = _shares(reference, cuts), _shares(present, cuts)
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def ks(reference: Sequence[float], present: Sequence[float]) -> float:
    """Two-sample Kolmogorov-Smirnov distance: the largest gap between the empirical distribution functions, in [0, 1].

    Both are sorted ascending and not empty.
    """
    n, m, i, j = len(reference), len(present), 0, 0
    widest = 0  # in units of 1 / (n m), so that equal functions differ by exactly 0
    while i < n and j < m:
        value = min(reference[i], present[j])
        while i < n and reference[i] == value:
            i += 1
        while j < m and present[j] == value:
            j += 1
        widest = max(widest, abs(i * m - j * n))
    return widest / (n * m)


def ks_p_value(distance: float, n: int, m: int) -> float:
    """P(a distance at least this large | one continuous distribution), asymptotic with Stephens' correction.

    On the safe side with tied scores (it is then too large). Source: M. A. Stephens, Use of the Kolmogorov-Smirnov,
    Cramer-Von Mises and related statistics without extensive tables (JRSS B 32, 1970).
    """
    root = math.sqrt(n * m / (n + m))
    return kolmogorov((root + 0.12 + 0.11 / root) * distance)


def kolmogorov(x: float) -> float:
    """P(K > x) of Kolmogorov's distribution. Two series for the same function; each converges fast on its side."""
    if x <= 0.0:
        return 1.0
    if x < 1.0:
        terms = [math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8 * x * x)) for k in range(1, 6)]
        return min(1.0, max(0.0, 1.0 - math.sqrt(2 * math.pi) / x * math.fsum(terms)))
    return min(1.0, max(0.0, 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 6))))


def _centred(values: Sequence[float]) -> list[float]:
    centre = math.fsum(values) / len(values)
    return [value - centre for value in values]


def _cuts(reference: Sequence[float]) -> list[tuple[float, float]]:
    """Where bins end, ascending: (e, 1.0) after the value e, (e, 0.0) before it."""
    edges = Counter(_quantile(reference, k / BINS) for k in range(1, BINS))
    return sorted([(e, 1.0) for e in edges] + [(e, 0.0) for e, times in edges.items() if times > 1])


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (type 7 of Hyndman and Fan, The American Statistician 50, 1996)."""
    place = share * (len(ascending) - 1)
    low = math.floor(place)
    below, above = ascending[low], ascending[min(low + 1, len(ascending) - 1)]
    return below if below == above else below + (place - low) * (above - below)


def _shares(scores: Sequence[float], cuts: Sequence[tuple[float, float]]) -> list[float]:
    """The smoothed share of each bin: (count + 1/2) / (n + bins / 2)."""
    counts = [0] * (len(cuts) + 1)
    for score in scores:
        counts[bisect(cuts, (score, 0.5))] += 1
    return [(count + 0.5) / (len(scores) + 0.5 * len(counts)) for count in counts]
