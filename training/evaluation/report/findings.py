"""Judged pairs in, every number of the report out. No I/O, no pictures.

Probabilities lie in [0, 1], log-odds are nats, lengths are characters. Intervals are 95 % and clustered by the pair's
``group``. A pair without a verdict counts as not right: a judge that fails on hard pairs must not gain by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from service.types import Verdict
from training.data.pairs import Pair
from training.evaluation.items import Failure, Judged
from training.evaluation.statistics import (
    Calibration,
    Interval,
    PairedTest,
    calibration,
    cluster_bootstrap,
    clustered_interval,
    expected_calibration_error,
    fit_temperature,
    paired_test,
)

Floats = npt.NDArray[np.float64]

MOST_ODDS = 20.0
"""Log-odds beyond this (nats) are drawn and averaged as this: a probability of 1 - 2e-9 says no more than 1 - 1e-9."""
LENGTH_BINS = 6
FEWEST_FOR_CALIBRATION = 20
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number in its own unit (nats) with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Division:
    """One subset or source of the data. ``flips`` is the share of its verdicts that change with the order."""

    name: str
    pairs: int
    accuracy: Interval
    flips: float


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Pairs whose chosen response is ``doublings`` times twice as long as the rejected one, on average."""

    doublings: float
    pairs: int
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class LengthBias:
    """``slope`` is what a doubling of a response's length adds to its log-odds, quality (the label) held fixed.

    ``longer_wins`` is the accuracy of the rule "the longer one"; ``against_rule`` compares the judge with it. The two
    accuracies are on pairs whose chosen response is the longer, and the shorter one; None where there are none.
    """

    slope: Estimate | None
    bins: tuple[LengthBin, ...]
    longer_wins: Interval
    against_rule: PairedTest
    chosen_longer: Interval | None
    chosen_shorter: Interval | None


@dataclass(frozen=True, slots=True)
class PositionBias:
    """``bias`` is the mean log-odds of whichever response stands first, both orders of a pair together: 0 is fair.
    ``picks_first`` is the share of single orders that prefer the response shown first. ``per_pair`` are its parts."""

    bias: Estimate
    picks_first: Interval
    per_pair: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``ece_after`` uses for every pair a temperature fitted on other prompts; `Calibration` has the optimistic one."""

    measured: Calibration
    after: Calibration
    ece_low: float
    ece_high: float
    ece_after: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """A pair the judge got wrong, and how sure it was of the worse response."""

    pair: Pair
    verdict: Verdict
    confidence: float


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything the page says. ``single`` is the accuracy of one order, ``both`` of both orders at once."""

    pairs: int
    prompts: int
    failures: tuple[tuple[str, int], ...]
    ties: int
    accuracy: Interval
    single: Interval
    both: Interval
    flips: Interval
    divisions: tuple[Division, ...]
    calibration: Calibrated | None
    length: LengthBias
    position: PositionBias
    label_mass: tuple[float, ...]
    orders: tuple[tuple[float, float], ...]
    """For each verdict: log-odds of the better response with it shown first, and shown second."""
    worst: tuple[Wrong, ...]


def find(judged: Sequence[Judged], *, worst: int = 12) -> Findings:
    """All findings. Raises `ValueError` when not one pair has a verdict."""
    seen = [(one, verdict) for one in judged if (verdict := one.verdict) is not None]
    if not seen:
        raise ValueError("Not one pair could be judged, so there is nothing to report.")
    groups = [_group(one) for one in judged]
    right = [float(_right(one)) for one in judged]
    verdicts = [verdict for _, verdict in seen]
    answered = [_group(one) for one, _ in seen]
    singles = [order for one in judged for order in (one.orders_right or (False, False))]
    failed = Counter(one.outcome.code for one in judged if isinstance(one.outcome, Failure))
    return Findings(
        pairs=len(judged),
        prompts=len(set(groups)),
        failures=tuple(sorted(failed.items())),
        ties=sum(verdict.p_first == 0.5 for verdict in verdicts),
        accuracy=clustered_interval(right, groups),
        single=clustered_interval([float(one) for one in singles], [g for g in groups for _ in range(2)]),
        both=clustered_interval([float(all(one.orders_right or (False,))) for one in judged], groups),
        flips=clustered_interval([float(not verdict.consistent) for verdict in verdicts], answered),
        divisions=_divisions(judged),
        calibration=_calibration(seen, answered),
        length=length_bias(judged),
        position=position_bias(verdicts, answered),
        label_mass=tuple(v.label_mass for v in verdicts if v.label_mass is not None),
        orders=tuple(_orders(one, verdict) for one, verdict in seen),
        worst=_worst(seen, worst),
    )


def _group(one: Judged) -> str:
    """Pairs without a group are told apart by their prompt's text."""
    return one.item.pair.group or "\x1f".join(m.content for m in one.item.pair.prompt.messages)


def _right(one: Judged) -> bool:
    return one.p_right is not None and one.p_right > 0.5


def _odds(p: float) -> float:
    """Log-odds, bounded."""
    if p <= 0.0 or p >= 1.0:
        return math.copysign(MOST_ODDS, p - 0.5)
    return max(-MOST_ODDS, min(MOST_ODDS, math.log(p) - math.log1p(-p)))


def _orders(one: Judged, verdict: Verdict) -> tuple[float, float]:
    """``p_ab`` and ``p_ba`` are each of the response shown first, so one of them is turned round."""
    with_a_first, with_b_first = _odds(verdict.p_ab), _odds(verdict.p_ba)
    if one.item.pair.label == "a":
        return with_a_first, -with_b_first
    return with_b_first, -with_a_first


def _divisions(judged: Sequence[Judged]) -> tuple[Division, ...]:
    """By subset, else by source; largest first. One division is none."""
    parts: dict[str, list[Judged]] = {}
    for one in judged:
        parts.setdefault(one.item.pair.subset or one.item.pair.source or "(not named)", []).append(one)
    if len(parts) == 1:
        return ()
    found = []
    for name, members in parts.items():
        verdicts = [v for one in members if (v := one.verdict) is not None]
        flips = sum(not v.consistent for v in verdicts) / len(verdicts) if verdicts else math.nan
        accuracy = clustered_interval([float(_right(one)) for one in members], [_group(one) for one in members])
        found.append(Division(name, len(members), accuracy, flips))
    return tuple(sorted(found, key=lambda division: (-division.pairs, division.name)))


def _calibration(seen: Sequence[tuple[Judged, Verdict]], groups: Sequence[str]) -> Calibrated | None:
    """None for too few verdicts: ten bins of two pairs each would be a picture of noise."""
    if len(seen) < FEWEST_FOR_CALIBRATION:
        return None
    odds = np.array([_odds(v.p_first) * (1.0 if one.item.pair.label == "a" else -1.0) for one, v in seen])
    low, high = cluster_bootstrap(groups, lambda chosen: expected_calibration_error(odds[chosen]), draws=400)
    cooled = cross_fitted(odds, groups)
    measured = calibration(odds.tolist())
    after = calibration((odds / measured.temperature).tolist())
    return Calibrated(measured, after, low, high, expected_calibration_error(cooled))


def cross_fitted(odds: Floats, groups: Sequence[str], folds: int = FOLDS) -> Floats:
    """Each log-odds divided by the temperature that fits the other folds best; a prompt's pairs share a fold."""
    known: dict[str, int] = {}
    fold = np.array([known.setdefault(group, len(known)) % folds for group in groups])
    out = odds.copy()
    for i in range(folds):
        if np.any(fold == i) and np.any(fold != i):
            out[fold == i] /= fit_temperature(odds[fold != i])
    return out


def length_bias(judged: Sequence[Judged]) -> LengthBias:
    """The judge against the rule "the longer response", and what length is worth to it."""
    groups = [_group(one) for one in judged]
    doublings = np.array([_doublings(one.item.pair.chosen, one.item.pair.rejected) for one in judged])
    right = np.array([float(_right(one)) for one in judged])
    rule = [0.5 if gap == 0 else float(gap > 0) for gap in doublings]
    return LengthBias(
        slope=_length_slope([(one, v) for one in judged if (v := one.verdict) is not None]),
        bins=_length_bins(doublings, right, groups),
        longer_wins=clustered_interval(rule, groups),
        against_rule=paired_test(right.tolist(), rule, groups),
        chosen_longer=_accuracy_where(doublings > 0, right, groups),
        chosen_shorter=_accuracy_where(doublings < 0, right, groups),
    )


def _doublings(one: str, other: str) -> float:
    return math.log2(max(len(one), 1) / max(len(other), 1))


def _accuracy_where(chosen: npt.NDArray[np.bool_], right: Floats, groups: Sequence[str]) -> Interval | None:
    places = np.flatnonzero(chosen)
    return clustered_interval(right[places].tolist(), [groups[i] for i in places]) if places.size else None


def _length_bins(doublings: Floats, right: Floats, groups: Sequence[str]) -> tuple[LengthBin, ...]:
    """Bins of equal size, by how much longer the chosen response is; equal lengths are not torn apart."""
    edges = np.unique(np.quantile(doublings, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
    place = np.searchsorted(edges, doublings, side="left")
    found = []
    for i in range(edges.size + 1):
        accuracy = _accuracy_where(place == i, right, groups)
        if accuracy is not None:
            inside = doublings[place == i]
            found.append(LengthBin(float(inside.mean()), int(inside.size), accuracy))
    return tuple(found)


def _length_slope(seen: Sequence[tuple[Judged, Verdict]]) -> Estimate | None:
    """Least squares of A's log-odds on which response is better and on the doublings of length from B to A.

    None where lengths hardly differ, or few prompts are left to tell.
    """
    odds = np.array([max(-MOST_ODDS, min(MOST_ODDS, v.margin)) for _, v in seen])
    pairs = [one.item.pair for one, _ in seen]
    features = np.array([[1.0 if p.label == "a" else -1.0, _doublings(p.response_a, p.response_b)] for p in pairs])
    if len({_group(one) for one, _ in seen}) < 5 or np.linalg.matrix_rank(features) < 2:
        return None
    return regression(features, odds, [_group(one) for one, _ in seen])[1]


def regression(features: Floats, values: Floats, groups: Sequence[str]) -> list[Estimate]:
    """Least squares with cluster-robust intervals (Liang & Zeger 1986, small-sample factor G / (G - 1), Student's t).

    ``features`` [n, k] of full rank, no intercept added; one estimate a column.
    """
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(group, len(known)) for group in groups])
    bread = np.linalg.inv(features.T @ features)
    weights = bread @ features.T @ values
    scores = features * (values - features @ weights)[:, None]
    sums = np.zeros((len(known), features.shape[1]))
    np.add.at(sums, codes, scores)
    count = len(known)
    spread = bread @ (sums.T @ sums) @ bread * count / max(count - 1, 1)
    half = np.sqrt(np.diag(spread)) * float(scipy.stats.t.ppf(0.975, max(count - 1, 1)))
    return [Estimate(float(w), float(w - h), float(w + h)) for w, h in zip(weights, half, strict=True)]


def position_bias(verdicts: Sequence[Verdict], groups: Sequence[str]) -> PositionBias:
    """Both orders give the log-odds of the response shown first; what quality adds to one it takes from the other."""
    per_pair = [(_odds(v.p_ab) + _odds(v.p_ba)) / 2 for v in verdicts]
    mean = paired_test(per_pair, [0.0] * len(per_pair), groups, draws=1)
    picks = [0.5 if p == 0.5 else float(p > 0.5) for v in verdicts for p in (v.p_ab, v.p_ba)]
    return PositionBias(
        Estimate(mean.difference, mean.low, mean.high),
        clustered_interval(picks, [group for group in groups for _ in range(2)]),
        tuple(per_pair),
    )


def _worst(seen: Sequence[tuple[Judged, Verdict]], count: int) -> tuple[Wrong, ...]:
    """The wrong pairs the judge was surest of; where probabilities saturate, by log-odds."""
    wrong = [(one, v) for one, v in seen if one.p_right is not None and one.p_right < 0.5]
    wrong.sort(key=lambda found: (-abs(found[1].p_first - 0.5), -abs(found[1].margin), found[0].item.pair.id))
    return tuple(Wrong(one.item.pair, v, max(v.p_first, 1 - v.p_first)) for one, v in wrong[:count])
