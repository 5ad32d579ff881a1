"""Intervals cover what they promise, tests have the size they claim, calibration finds the temperature."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from tests.support.properties import bar
from training.evaluation import statistics
from training.evaluation.statistics import (
    calibration,
    cluster_bootstrap,
    clustered_interval,
    expected_calibration_error,
    holm,
    mcnemar,
    paired_test,
    wilson_interval,
)


def test_wilson_interval_holds_the_proportion() -> None:
    low, high = wilson_interval(98, 100)
    assert 0.92 < low < 0.98 < high < 1.0


def test_wilson_interval_ends_at_the_proportion_where_that_is_0_or_1() -> None:
    """To the last bit: a picture's error bars must not be negative by a rounding."""
    for total in (*range(1, 400), 2_985, 0.7, 4.1):
        low, high = wilson_interval(0, total)
        assert low == 0.0 < high < 1.0, total
        low, high = wilson_interval(total, total)
        assert 0.0 < low < 1.0 == high, total


@pytest.mark.parametrize("correct", [0, 1, 13, 49, 50])
def test_samples_of_their_own_have_wilsons_interval(correct: int) -> None:
    found = clustered_interval([1.0] * correct + [0.0] * (50 - correct), [str(i) for i in range(50)])
    assert (found.low, found.high) == pytest.approx(wilson_interval(correct, 50), abs=1e-12)
    assert (found.value, found.clusters) == (correct / 50, 50)


def test_copies_of_a_sample_bring_no_evidence() -> None:
    values, names = [1.0] * 30 + [0.0] * 10, [str(i) for i in range(40)]
    once, thrice = clustered_interval(values, names), clustered_interval(values * 3, names * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.006)
    assert thrice.low < once.low < once.high < thrice.high
    perfect = clustered_interval([1.0] * 120, names * 3)
    assert perfect.low == pytest.approx(wilson_interval(40, 40)[0])


def test_a_weighted_mean_is_that_of_its_cells() -> None:
    values, cells = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0], ["x", "x", "y", "y", "y", "y"]
    found = clustered_interval(values, list("abcdef"), cells, {"x": 3.0, "y": 1.0})
    assert found.value == pytest.approx((3 * 0.5 + 0.75) / 4)
    # The linearised variance by hand: x (3/4)^2 * (0.25 + 0.25) / 4, y (1/4)^2 * (3 * 0.0625 + 0.5625) / 16.
    variance = (9 / 16) * 0.5 / 4 + (1 / 16) * 0.75 / 16
    size = found.value * (1 - found.value) / variance
    assert (found.low, found.high) == pytest.approx(wilson_interval(found.value * size, size))


SAMPLES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcde"), st.sampled_from("xy")), min_size=1
)


@bar(2_000)
@given(SAMPLES, st.randoms(use_true_random=False))
def test_an_interval_holds_its_mean_and_stays_inside(samples: list[tuple[float, str, str]], chance: Random) -> None:
    """Whatever the values, few clusters or many, one cell or two; and the order of the samples is nothing."""
    cells = {cell for _, _, cell in samples}
    weights = {cell: 1.0 + (cell == "x") for cell in cells}
    shuffled = chance.sample(samples, len(samples))
    for given_weights in (None, weights):
        found, again = (
            clustered_interval([v for v, _, _ in s], [c for _, c, _ in s], [k for _, _, k in s], given_weights)
            for s in (samples, shuffled)
        )
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0
        assert (again.low, again.value, again.high) == pytest.approx((found.low, found.value, found.high), abs=1e-9)


def test_cells_without_weight_are_an_error() -> None:
    with pytest.raises(ValueError, match="y is in one of them only"):
        clustered_interval([1.0, 0.0], ["1", "2"], ["x", "y"], {"x": 1.0})
    with pytest.raises(ValueError, match="no samples"):
        clustered_interval([], [])


@pytest.mark.parametrize(("clusters", "accuracy"), [(12, 0.6), (60, 0.6), (300, 0.9)])
def test_the_clustered_interval_covers_and_the_naive_one_does_not(clusters: int, accuracy: float) -> None:
    """Prompts of 1 to 9 samples whose difficulty they share; 95 % intervals of 400 worlds."""
    rng = np.random.default_rng(7)
    covered = naive = 0
    worlds = 400
    for _ in range(worlds):
        sizes = rng.integers(1, 10, clusters)
        hard = rng.beta(2 * accuracy, 2 * (1 - accuracy), clusters)
        values = np.concatenate([rng.random(n) < p for n, p in zip(sizes, hard, strict=True)]).astype(float)
        names = np.repeat(np.arange(clusters), sizes).astype(str).tolist()
        found = clustered_interval(values, names)
        covered += found.low <= accuracy <= found.high
        low, high = wilson_interval(values.sum(), values.size)
        naive += low <= accuracy <= high
    assert 0.92 <= covered / worlds <= 0.98
    assert naive / worlds < 0.85


def test_the_bootstrap_agrees_on_a_mean_and_repeats_itself() -> None:
    rng = np.random.default_rng(3)
    values = (rng.random(400) < 0.7).astype(float)
    names = [str(i // 4) for i in range(400)]
    found = clustered_interval(values, names)
    drawn = cluster_bootstrap(names, lambda rows: float(values[rows].mean()), seed=1)
    assert drawn == pytest.approx((found.low, found.high), abs=0.01)
    assert drawn == cluster_bootstrap(names, lambda rows: float(values[rows].mean()), seed=1)


def test_a_paired_test_sees_what_two_intervals_do_not() -> None:
    """One judge right on 40 samples the other gets wrong, and never the other way: no doubt, whatever the overlap."""
    first, second = [1.0] * 340 + [0.0] * 60, [1.0] * 300 + [0.0] * 100
    names = [str(i) for i in range(400)]
    found = paired_test(first, second, names)
    assert found.difference == pytest.approx(0.1)
    assert found.p < 0.001
    assert (found.first_only, found.second_only) == (40, 0)
    assert mcnemar(40, 0) == pytest.approx(2 * 0.5**40)
    assert mcnemar(0, 0) == 1.0


def test_the_sign_flip_test_is_mcnemars_when_enumerated() -> None:
    gap = [1.0] * 9 + [-1.0] * 3
    found = paired_test([max(g, 0.0) for g in gap], [max(-g, 0.0) for g in gap], [str(i) for i in range(12)])
    assert found.p == pytest.approx(mcnemar(9, 3))


def test_flipping_whole_clusters_keeps_the_level() -> None:
    """Two equal judges on clusters of eight: p < 0.05 about once in twenty. Sample-wise it would be far more often."""
    rng = np.random.default_rng(11)
    names = [str(i // 8) for i in range(240)]
    small = wrong = 0
    for _ in range(300):
        shared = np.repeat(rng.random(30) < 0.5, 8)
        first, second = shared * 1.0, 1.0 - shared
        small += paired_test(first, second, names, draws=400).p < 0.05
        wrong += mcnemar(int(first.sum()), int(second.sum())) < 0.05
    assert small / 300 < 0.09
    assert wrong / 300 > 0.3


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_calibration_finds_the_temperature() -> None:
    rng = np.random.default_rng(5)
    true = np.abs(rng.normal(0, 2, 20_000))  # log-odds of the response a calibrated judge prefers
    right = rng.random(true.size) < 1 / (1 + np.exp(-true))
    told = np.where(right, true, -true) * 3.0  # an over-confident judge
    found = calibration(told)
    assert found.temperature == pytest.approx(3.0, rel=0.05)
    assert found.ece > 0.1
    assert found.ece_after < 0.02
    assert found.nll_after < found.nll
    assert sum(b.count for b in found.bins) == true.size


def test_ece_by_hand() -> None:
    odds = [math.log(0.8 / 0.2)] * 3 + [math.log(0.2 / 0.8)]  # confidence 0.8, right 3 of 4
    assert expected_calibration_error(odds) == pytest.approx(0.05)
    assert expected_calibration_error([0.0, 0.0]) == 0.0  # ties: confidence one half, half right


def test_calibration_wants_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        calibration([math.nan])


def test_the_normal_quantile() -> None:
    assert pytest.approx(scipy.stats.norm.ppf(0.975), abs=1e-6) == statistics.Z95
