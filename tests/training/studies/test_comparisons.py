"""The sentences of a study follow from its numbers, and from nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from tests.support.properties import bar
from training.studies.comparisons import (
    Comparison,
    Question,
    Table,
    compare,
    label_equivalent,
    label_factor,
    over_seeds,
    verdict,
)
from training.studies.grid import Result, Unit


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


BASE = by_seed(0.70, 0.72, 0.69, 0.73, 0.71)
HIGHER = by_seed(0.80, 0.83, 0.78, 0.84, 0.80)
SAME = by_seed(0.71, 0.71, 0.70, 0.72, 0.71)


def test_a_mean_has_student_s_interval() -> None:
    found = over_seeds(BASE)
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(list(BASE.values())), scipy.stats.sem(list(BASE.values())))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.71, low, high))
    assert found.clusters == 5


def test_one_run_has_no_interval_and_none_no_mean() -> None:
    single = over_seeds(by_seed(0.6))
    assert single is not None
    assert math.isinf(single.high)
    assert over_seeds({}) is None


def test_a_comparison_is_the_paired_t_test() -> None:
    (found,) = compare([Question("x", HIGHER, BASE)])
    expected = scipy.stats.ttest_rel(list(HIGHER.values()), list(BASE.values()))
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.decided == 1


def test_only_seeds_of_both_arms_are_compared() -> None:
    (found,) = compare([Question("x", {0: 0.8, 1: 0.9, 7: 0.1}, {1: 0.7, 0: 0.7, 2: 0.0})])
    assert found.seeds == 2
    assert found.difference == pytest.approx(0.15)


def test_a_family_is_corrected_together_and_what_has_not_run_does_not_count() -> None:
    alone = compare([Question("x", HIGHER, BASE)])[0].p
    family = compare([Question("x", HIGHER, BASE), Question("y", SAME, BASE), Question("z", {}, BASE)])
    assert family[0].p == pytest.approx(2 * alone)
    assert (family[2].seeds, family[2].decided) == (0, 0)
    assert "nothing has run" in str(family[2])


def test_what_could_be_detected_is_detected_four_times_in_five() -> None:
    """The reported effect, added to noise of the same size, is found in about 80 % of fresh tests."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.02, (4_000, 5))
    gaps = dict(enumerate(noise[0] - noise[0].mean()))
    (found,) = compare([Question("x", gaps, dict.fromkeys(range(5), 0.0))])
    scale = 0.02 / float(np.std(list(gaps.values()), ddof=1))
    p = scipy.stats.ttest_1samp(noise + found.detectable * scale, 0.0, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("pairs", "word"),
    [
        ([(HIGHER, BASE), (HIGHER, BASE)], "**Holds at this scale**: "),
        ([(HIGHER, BASE), (SAME, BASE)], "**Holds in part at this scale (1 of 2 comparisons)**: "),
        ([(SAME, BASE)], "**Does not hold at this scale**: "),
        ([(BASE, HIGHER)], "**Does not hold at this scale**; 1 of 1 comparisons show the opposite: "),
        ([(by_seed(0.9, 0.8), by_seed(0.1, 0.1))], "**Not decided** (2 of at least 3 seeds): "),
    ],
)
def test_verdicts(pairs: list[tuple[dict[int, float], dict[int, float]]], word: str) -> None:
    family = compare([Question("x", first, second) for first, second in pairs])
    assert verdict("a claim", family) == word + "a claim."


def test_a_claim_that_something_falls_holds_when_it_falls() -> None:
    assert compare([Question("x", BASE, HIGHER, expected=-1)])[0].decided == 1
    assert compare([Question("x", HIGHER, BASE, expected=-1)])[0].decided == -1


def test_equal_arms_are_no_evidence() -> None:
    (found,) = compare([Question("x", BASE, BASE)])
    assert (found.p, found.decided, found.difference) == (1.0, 0, 0.0)


def test_a_mean_over_points_needs_them_all() -> None:
    rows = [("p", 0, 0.2), ("p", 1, 0.4), ("q", 0, 0.6)]
    table = Table([Result(Unit("arm", point, seed), {"m": value}, 1.0) for point, seed, value in rows])
    assert table.mean_over("arm", ["p", "q"], "m") == {0: pytest.approx(0.4)}
    assert table.values("arm", "nowhere", "m") == {}


@pytest.mark.parametrize(
    ("reached", "labels", "mark"),
    [(0.6, 100, ""), (0.7, math.sqrt(100 * 400), ""), (0.8, 400, ""), (0.9, 400, ">="), (0.5, 100, "<=")],
)
def test_label_equivalents_are_read_off_the_reference_curve(reached: float, labels: float, mark: str) -> None:
    assert label_equivalent([100, 400], [0.6, 0.8], reached) == (pytest.approx(labels), mark)


@bar(5_000)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=7),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_more_accuracy_is_never_worth_fewer_labels(curve: list[float], first: float, second: float) -> None:
    labels = [250 * 2**i for i in range(len(curve))]
    low, high = (label_equivalent(labels, curve, value)[0] for value in sorted((first, second)))
    assert labels[0] <= low <= high <= labels[-1]


def test_factors_keep_the_marks_of_bounds() -> None:
    factor = label_factor([100, 400], 100, [[0.6, 0.8]] * 3, [0.7, 0.95, 0.99])
    assert factor.middle == pytest.approx(4.0)
    assert factor.text == ">=4 [2, >=4]"


def test_a_comparison_says_what_it_could_not_see() -> None:
    text = str(Comparison("x", 0.01, -0.02, 0.04, 0.42, 0.05, 5, 1))
    assert text == "x: +0.010 [-0.020, +0.040], Holm p 0.420, detectable 0.050"
