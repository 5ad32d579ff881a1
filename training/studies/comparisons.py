"""From runs to sentences: means over seeds, paired comparisons, and what they decide.

The unit is the seed: it draws weights, labels, order and test set, alike for every arm, so arms are compared seed by
seed (paired t-test; flipping the signs of five differences could never give p < 0.0625). Comparisons that answer one
question are one family and corrected together (Holm). Beside what a test did not see stands what it could have seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev

import scipy

from training.evaluation.statistics import Interval, holm
from training.studies.grid import Result

LEVEL = 0.05
POWER = 0.8
FEWEST_SEEDS = 3
"""Fewer decide nothing."""

Values = Mapping[int, float]
"""A measure by seed."""


class Table:
    """Results by arm, point and measure."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        for result in results:
            for measure, value in result.measures.items():
                key = (result.unit.arm, result.unit.point, measure)
                self._values.setdefault(key, {})[result.unit.seed] = value

    def values(self, arm: str, point: str, measure: str) -> Values:
        """By seed; empty where nothing has run yet."""
        return self._values.get((arm, point, measure), {})

    def mean_over(self, arm: str, points: Sequence[str], measure: str) -> Values:
        """Each seed's mean over several points, for the seeds that have them all."""
        columns = [self.values(arm, point, measure) for point in points]
        seeds = set.intersection(*(set(column) for column in columns)) if columns else set()
        return {seed: fmean(column[seed] for column in columns) for seed in sorted(seeds)}


def over_seeds(values: Values) -> Interval | None:
    """Mean and 95 % interval (Student's t); as wide as everything for one seed, None for none."""
    data = list(values.values())
    if not data:
        return None
    half = math.inf if len(data) == 1 else _quantile(0.975, len(data)) * stdev(data) / math.sqrt(len(data))
    return Interval(fmean(data), fmean(data) - half, fmean(data) + half, len(data))


@dataclass(frozen=True, slots=True)
class Question:
    """One comparison to make. ``expected`` is the sign of first minus second that the claim predicts."""

    what: str
    first: Values
    second: Values
    expected: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """First minus second, paired by seed. ``p`` is two-sided and, after `compare`, corrected for the family."""

    what: str
    difference: float
    low: float
    high: float
    p: float
    detectable: float
    """Smallest true difference that a test of this size finds 4 times in 5 at the level 0.05, uncorrected."""
    seeds: int
    expected: int

    @property
    def decided(self) -> int:
        """1: as the claim predicts; -1: the other way round; 0: neither is shown."""
        if self.seeds < FEWEST_SEEDS or not self.p < LEVEL:
            return 0
        return 1 if self.difference * self.expected > 0 else -1

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self.what}: {self.difference:+.3f} (one seed)" if self.seeds else f"{self.what}: nothing has run"
        return (
            f"{self.what}: {self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], Holm p {_shown(self.p)}, "
            f"detectable {self.detectable:.3f}"
        )


def compare(questions: Sequence[Question]) -> list[Comparison]:
    """Every question of a family, corrected together; those without two seeds stay uncorrected at p = 1."""
    single = [_compare(question) for question in questions]
    tested = [i for i, comparison in enumerate(single) if comparison.seeds >= 2]
    for i, p in zip(tested, holm([single[i].p for i in tested]), strict=True):
        single[i] = replace(single[i], p=p)
    return single


def _compare(question: Question) -> Comparison:
    seeds = sorted(question.first.keys() & question.second.keys())
    gaps = {seed: question.first[seed] - question.second[seed] for seed in seeds}
    found = over_seeds(gaps)
    if found is None or len(gaps) < 2:
        middle = found.value if found else math.nan
        return Comparison(question.what, middle, -math.inf, math.inf, 1.0, math.inf, len(gaps), question.expected)
    n, error = len(gaps), stdev(gaps.values()) / math.sqrt(len(gaps))
    if error == 0.0:
        p = 1.0 if found.value == 0.0 else 0.0
    else:
        p = float(2 * scipy.stats.t.sf(abs(found.value) / error, n - 1))
    detectable = (_quantile(0.975, n) + _quantile(POWER, n)) * error
    return Comparison(question.what, found.value, found.low, found.high, p, detectable, n, question.expected)


def verdict(claim: str, family: Sequence[Comparison]) -> str:
    """The sentence a claim gets, from its family of comparisons alone."""
    seeds = min(comparison.seeds for comparison in family)
    if seeds < FEWEST_SEEDS:
        return f"**Not decided** ({seeds} of at least {FEWEST_SEEDS} seeds): {claim}."
    shown = [c for c in family if c.decided == 1]
    against = [c for c in family if c.decided == -1]
    if len(shown) == len(family):
        word = "Holds at this scale"
    elif shown:
        word = f"Holds in part at this scale ({len(shown)} of {len(family)} comparisons)"
    else:
        word = "Does not hold at this scale"
    more = f"; {len(against)} of {len(family)} comparisons show the opposite" if against else ""
    return f"**{word}**{more}: {claim}."


def label_equivalent(labels: Sequence[int], reference: Sequence[float], reached: float) -> tuple[float, str]:
    """How many labels the reference arm needs for an accuracy: the number, and "" / "<=" / ">=" where it is a bound.

    The reference's curve, made monotone, is interpolated linearly over the logarithm of ``labels`` (ascending).
    """
    curve = [max(reference[: i + 1]) for i in range(len(reference))]
    if reached <= curve[0]:
        return float(labels[0]), "" if reached == curve[0] else "<="
    for i in range(1, len(curve)):
        if reached <= curve[i]:
            share = (reached - curve[i - 1]) / (curve[i] - curve[i - 1])
            return labels[i - 1] * (labels[i] / labels[i - 1]) ** share, ""
    return float(labels[-1]), ">="


@dataclass(frozen=True, slots=True)
class Factor:
    """How many times the labels the reference arm needs: each seed's, in order, and the median's text."""

    by_seed: tuple[float, ...]
    text: str

    @property
    def middle(self) -> float:
        """The median seed's."""
        return median(self.by_seed)


def label_factor(
    labels: Sequence[int], n: int, reference: Sequence[Sequence[float]], reached: Sequence[float]
) -> Factor:
    """Median over seeds of needed / n, with its range: of five seeds, a 93.75 % interval of the median.

    ``reference`` holds each seed's curve, ``reached`` each seed's accuracy at ``n`` labels. A bound is marked as one.
    """
    found = sorted((needed / n, mark) for needed, mark in _needed(labels, reference, reached))
    factors, marks = [factor for factor, _ in found], [mark for _, mark in found]
    at = (len(found) - 1) // 2
    low = marks[0] if marks[0] == "<=" else ""
    high = marks[-1] if marks[-1] == ">=" else ""
    text = f"{marks[at]}{median(factors):.2g} [{low}{factors[0]:.2g}, {high}{factors[-1]:.2g}]"
    return Factor(tuple(factors), text)


def _needed(
    labels: Sequence[int], reference: Sequence[Sequence[float]], reached: Sequence[float]
) -> list[tuple[float, str]]:
    return [label_equivalent(labels, curve, value) for curve, value in zip(reference, reached, strict=True)]


def _quantile(share: float, n: int) -> float:
    return float(scipy.stats.t.ppf(share, n - 1))


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
