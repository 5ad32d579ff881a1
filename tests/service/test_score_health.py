"""The figures against closed forms, brute force and published values; and what must hold for any data."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.score_health import (
    Drift,
    Flagged,
    Mass,
    Mean,
    Sample,
    Share,
    Slope,
    drift,
    flagged,
    judge_health,
    kolmogorov,
    ks,
    ks_p_value,
    length_slope,
    log_odds,
    mass,
    mean,
    pair_sample,
    pair_samples,
    psi,
    single_sample,
    wilson,
)
from service.types import Comparison, Prompt, Response, Verdict
from tests.support.properties import bar

scores = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: x + 0.0)
tied = st.integers(-3, 3).map(float)
windows = st.lists(scores, min_size=1, max_size=80) | st.lists(tied, min_size=1, max_size=80)
points = st.lists(st.tuples(st.floats(-6, 6), st.floats(-40, 40)), min_size=3, max_size=40)


def pair(first: str, second: str) -> Comparison:
    return Comparison(Prompt.from_text("Q"), Response(first), Response(second))


def leads(points: Sequence[tuple[float, float]], single: bool = False) -> list[Sample]:
    return [Sample(None, None, None, y, x, single) for x, y in points]


# --- samples ---------------------------------------------------------------------------------------------------------


def test_the_sample_of_a_pair() -> None:
    # 0.9 and 0.7 for whichever is shown first: log(9) and log(7 / 3)
    sample = pair_sample(pair("four", "123456789"), Verdict(0.6, 0.68, 0.9, 0.7, False, 0.97))
    assert sample is not None
    assert sample.bias == pytest.approx((math.log(9) + math.log(7 / 3)) / 2)
    assert sample[1:] == (True, 0.97, 0.68, math.log(5 / 10), False)


def test_identical_responses_are_nobody_s_judgment() -> None:
    assert pair_sample(pair("same", "same"), Verdict(0.5, 0.0, 0.5, 0.5, True, None)) is None


def test_without_labels_there_is_no_order_to_be_biased_by() -> None:
    sample = pair_sample(pair("long", ""), Verdict(0.9, 2.2, 0.9, 0.1, True, None))
    assert sample == Sample(None, None, None, 2.2, math.log(5), False)


def test_huge_raw_scores_stay_finite() -> None:
    singles = [single_sample("x" * n, (-1) ** n * 1e300) for n in range(1, 9)]
    verdicts = [Verdict(1.0, (-1) ** n * 1e300, 1.0, 0.0, True, None) for n in range(8)]
    for samples in (singles, pair_samples([pair("x" * n, "") for n in range(1, 9)], verdicts)):
        slope = length_slope(samples)
        assert slope.value is not None and slope.stderr is not None
        assert math.isfinite(slope.value) and math.isfinite(slope.stderr)


def test_only_verdicts_leave_samples() -> None:
    verdict = Verdict(0.6, 0.4, 0.6, 0.4, True, 0.9)
    pairs = [pair("a", "b"), pair("c", "d"), pair("e", "e")]
    assert pair_samples(pairs, [ValueError(), verdict, verdict]) == [pair_sample(pairs[1], verdict)]


@pytest.mark.parametrize(("p", "nats"), [(0.5, 0.0), (0.75, math.log(3)), (1.0, 36.7), (0.0, -36.8)])
def test_log_odds_are_finite(p: float, nats: float) -> None:
    assert log_odds(p) == pytest.approx(nats, abs=0.1)


# --- means, shares ---------------------------------------------------------------------------------------------------


def test_no_data_is_no_figure() -> None:
    health = judge_health([], [])
    assert (health.position_bias, health.flip_rate, health.label_mass) == (Mean(), Share(), Mass())
    assert (health.flagged, health.length_slope, health.comparisons) == (Flagged(None, {}), Slope(), 0)
    assert mean([2.0]) == Mean(2.0, None)


@bar(2000)
@given(st.lists(st.floats(-40, 40), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_mean_and_standard_error(values: list[float], shuffler: random.Random) -> None:
    found = mean(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert found.stderr == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)
    shuffler.shuffle(values)
    assert mean(values) == found


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # The root form of the interval, solved by hand: (p - share)^2 = z^2 p (1 - p) / n
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (1, 1000, 0.000177, 0.005641)],
)
def test_wilson_s_interval(hits: int, n: int, low: float, high: float) -> None:
    share = wilson([i < hits for i in range(n)])
    assert share.value == hits / n
    assert (share.low, share.high) == (pytest.approx(low, rel=2e-3, abs=1e-6), pytest.approx(high, rel=1e-3))


@bar(5000)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_wilson_s_ends_solve_its_equation(hits: list[bool]) -> None:
    found = wilson(hits)
    assert found.value is not None and found.low is not None and found.high is not None
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    for end in (found.low, found.high):
        z2 = 1.959963984540054**2
        assert (end - found.value) ** 2 == pytest.approx(z2 * end * (1 - end) / len(hits), abs=1e-9)


def test_mass_and_flags() -> None:
    assert mass([0.9, 0.8, 1.0]) == Mass(pytest.approx(0.9), 0.8)
    rows = [(), ("bidi",), ("bidi", "empty"), ()]
    assert flagged(rows) == Flagged(0.5, {"bidi": 0.5, "empty": 0.25})
    assert flagged([()]) == Flagged(0.0, {})


# --- length slope ----------------------------------------------------------------------------------------------------


@bar(2000)
@given(points)
def test_the_slope_is_the_textbook_s(found: list[tuple[float, float]]) -> None:
    slope = length_slope(leads(found))
    xs, ys = zip(*found, strict=True)
    if statistics.pvariance(xs) < 1e-9:
        return
    expected = statistics.linear_regression(xs, ys)
    rss = math.fsum((y - expected.slope * x - expected.intercept) ** 2 for x, y in found)
    sxx = statistics.pvariance(xs) * len(xs)
    assert slope.value == pytest.approx(expected.slope, rel=1e-6, abs=1e-6)
    assert slope.stderr == pytest.approx(math.sqrt(rss / (len(xs) - 2) / sxx), rel=1e-6, abs=1e-4)


@bar(1000)
@given(points)
def test_naming_the_responses_the_other_way_round_changes_nothing(found: list[tuple[float, float]]) -> None:
    there, back = length_slope(leads(found)), length_slope(leads([(-x, -y) for x, y in found]))
    assert there == back


def test_better_and_longer_throughout_is_no_length_bias() -> None:
    noise = random.Random(3)
    policy = [(1.0 + noise.gauss(0, 0.3), 2.0 + noise.gauss(0, 0.1)) for _ in range(500)]
    slope = length_slope(leads(policy))
    assert slope.value is not None and slope.stderr is not None
    assert abs(slope.value) < 3 * slope.stderr < 0.1


def test_pairs_and_singles_measure_one_slope() -> None:
    """A scalar judge whose score is 5 + 0.7 log(length), asked both ways."""
    singles = [(math.log(n), 5 + 0.7 * math.log(n)) for n in (3, 10, 40, 200)]
    pairs = [(x - u, y - v) for (x, y), (u, v) in combinations(singles, 2)]
    for samples in (leads(singles, True), leads(pairs), leads(singles, True) + leads(pairs)):
        slope = length_slope(samples)
        assert slope.value == pytest.approx(0.7)
        assert slope.stderr == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("found", [[], [(1.0, 2.0)], [(0.0, 1.0), (1.0, 2.0)], [(0.1 + 0.2, 1.0), (0.3, 5.0)] * 40])
def test_a_slope_that_nothing_determines(found: list[tuple[float, float]]) -> None:
    assert length_slope(leads(found)) == Slope()


def test_the_standard_error_covers_the_truth() -> None:
    """About 95 % of fits lie within two standard errors of the slope that made the data."""
    noise, inside = random.Random(7), 0
    for _ in range(200):
        made = [(x := noise.gauss(0, 1), 0.5 * x + noise.gauss(0, 2)) for _ in range(50)]
        slope = length_slope(leads(made))
        assert slope.value is not None and slope.stderr is not None
        inside += abs(slope.value - 0.5) < 2 * slope.stderr
    assert 180 <= inside <= 199


# --- drift -----------------------------------------------------------------------------------------------------------


def test_psi_by_hand() -> None:
    """Reference 0 .. 99: ten bins of ten. The present has 55 scores in the first bin and 5 in each other one."""
    reference = [float(i) for i in range(100)]
    present = [0.0] * 55 + [10.0 * k + 5 for k in range(1, 10) for _ in range(5)]
    p, first, rest = 10.5 / 105, 55.5 / 105, 5.5 / 105
    expected = (first - p) * math.log(first / p) + 9 * (rest - p) * math.log(rest / p)
    assert psi(reference, present) == pytest.approx(expected)
    assert expected > 0.25


def test_psi_tells_a_tie_from_its_neighbours() -> None:
    """Every reference score is the same: leaving it in either direction shows."""
    reference = [0.5] * 100
    assert psi(reference, reference) == 0.0
    assert psi(reference, [0.4] * 100) > 1.0
    assert psi(reference, [0.6] * 100) > 1.0


def brute_force_ks(reference: Sequence[float], present: Sequence[float]) -> float:
    def share(window: Sequence[float], x: float) -> float:
        return sum(score <= x for score in window) / len(window)

    return max(abs(share(reference, x) - share(present, x)) for x in (*reference, *present))


@bar(10_000)
@given(windows, windows)
def test_drift_is_bounded_and_ks_is_the_largest_gap(one: list[float], other: list[float]) -> None:
    assert psi(one, other) >= 0.0
    distance = ks(sorted(one), sorted(other))
    assert distance == pytest.approx(brute_force_ks(one, other), abs=1e-12)
    assert distance == ks(sorted(other), sorted(one))
    assert 0.0 <= ks_p_value(distance, len(one), len(other)) <= 1.0
    assert psi(one, one) == 0.0
    assert ks(sorted(one), sorted(one)) == 0.0
    assert ks_p_value(0.0, len(one), len(other)) == 1.0


@bar(2000)
@given(st.lists(st.integers(-1000, 1000), min_size=20, max_size=60), st.lists(st.integers(-1000, 1000), min_size=20))
def test_drift_does_not_depend_on_scale_or_order(one: list[int], other: list[int]) -> None:
    """Powers of two move no rounding, so the figures are the same bits."""
    first, second = [float(x) for x in one], [float(x) for x in other]
    found = drift(first, second)
    assert found == drift([4 * x for x in reversed(first)], [4 * x for x in sorted(second)])
    assert found.reference_count == len(one)


def test_small_windows_are_not_compared() -> None:
    enough = [float(i) for i in range(20)]
    assert drift(enough[1:], enough) == Drift(reference_count=19)
    assert drift(enough, enough[1:]) == Drift(reference_count=20)
    assert drift([], enough) == Drift(reference_count=0)
    assert drift(enough, enough) == Drift(0.0, 0.0, 1.0, 20)


@pytest.mark.parametrize(
    # Percentage points of Kolmogorov's distribution (N. Smirnov, Ann. Math. Stat. 19, 1948), both series' sides.
    ("x", "p"),
    [(0.828, 0.5), (1.0, 0.27), (1.2238, 0.1), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001), (0.0, 1.0), (0.2, 1.0)],
)
def test_kolmogorov_s_distribution(x: float, p: float) -> None:
    assert kolmogorov(x) == pytest.approx(p, rel=2e-3)


def test_both_series_meet() -> None:
    assert kolmogorov(math.nextafter(1.0, 0.0)) == pytest.approx(kolmogorov(1.0), abs=1e-9)
    falling = [kolmogorov(k / 100) for k in range(300)]
    assert falling == sorted(falling, reverse=True)


def test_p_values_are_uniform_without_drift() -> None:
    """Of 400 draws from one distribution about 5 % fall below 0.05, and the stability index is near 9 (1/n + 1/m)."""
    draw = random.Random(11)
    found = [drift(*([draw.gauss(0, 1) for _ in range(200)] for _ in range(2))) for _ in range(400)]
    below = sum(one.p_value is not None and one.p_value < 0.05 for one in found)
    assert 8 <= below <= 32
    assert statistics.fmean(one.psi or 0.0 for one in found) == pytest.approx(0.09, abs=0.02)


def test_a_shift_of_one_standard_deviation_shows() -> None:
    draw = random.Random(5)
    found = drift([draw.gauss(0, 1) for _ in range(1000)], [draw.gauss(1, 1) for _ in range(1000)])
    # PSI of two normals a deviation apart is 1 without bins; the distance is 2 Phi(1/2) - 1 = 0.383
    assert found.psi == pytest.approx(0.95, abs=0.2)
    assert found.ks == pytest.approx(0.383, abs=0.05)
    assert found.p_value is not None
    assert found.p_value < 1e-9
