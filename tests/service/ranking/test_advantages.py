"""Group advantages are the row means of a skew-symmetric matrix: what GRPO and RLOO then may rely on."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranking.board import RankTask
from tests.service.ranking.test_plans import Judge, noisy_judge, run
from tests.support.properties import bar

SIZES = st.integers(2, 16)
SEEDS = st.randoms(use_true_random=False)
ULPS = 1e-12


def kept(generator: random.Random, n: int) -> dict[tuple[int, int], float]:
    """Answers without sense: ties, certainty and cycles among them."""
    judge = noisy_judge(generator)
    return {(i, j): judge(i, j) for i in range(n) for j in range(i + 1, n)}


def scores(n: int, judge: Judge, method: str = "all_pairs") -> list[float]:
    ranking, _ = run(method, RankTask(n, strengths=False), judge)  # type: ignore[arg-type]
    return [result.score for result in ranking.results]


def advantages(of: list[float]) -> list[float]:
    """GRPO's numerator: score less the group's mean."""
    mean = math.fsum(of) / len(of)
    return [score - mean for score in of]


@bar(5_000)
@given(SIZES, SEEDS)
def test_advantages_are_row_means_of_the_skew_symmetric_matrix(n: int, generator: random.Random) -> None:
    """s_i = mean of P(i > j) and P(j > i) = 1 - P(i > j): the mean is 1/2, s_i - 1/2 the row mean of P - 1/2.

    In fractions the identity is exact; in floating point to 1e-12.
    """
    table = kept(generator, n)
    exact = [[Fraction(0)] * n for _ in range(n)]
    for (i, j), p in table.items():
        exact[i][j] = Fraction(p) - Fraction(1, 2)
        exact[j][i] = -exact[i][j]
    rows = [sum(row, Fraction(0)) / (n - 1) for row in exact]
    assert sum(rows) == 0
    found = scores(n, lambda i, j: table[i, j])
    assert math.fsum(found) / n == pytest.approx(0.5, abs=ULPS)
    assert advantages(found) == pytest.approx([float(row) for row in rows], abs=ULPS)


@bar(5_000)
@given(SIZES, SEEDS)
def test_reversing_every_preference_negates_advantages(n: int, generator: random.Random) -> None:
    table = kept(generator, n)
    there = advantages(scores(n, lambda i, j: table[i, j]))
    back = advantages(scores(n, lambda i, j: 1.0 - table[i, j]))
    assert back == pytest.approx([-a for a in there], abs=ULPS)


@bar(5_000)
@given(SIZES, SEEDS, st.sampled_from(["all_pairs", "swiss"]))
def test_advantages_sum_to_zero(n: int, generator: random.Random, method: str) -> None:
    """Swiss keeps it: a pair it did not judge is predicted as complements too. Of two responses one is exactly the
    other's complement (not each: 1 - p has fewer bits to hold a small p with, so only one way may round)."""
    table = kept(generator, n)
    found = scores(n, lambda i, j: table[i, j], method)
    assert math.fsum(found) == pytest.approx(n / 2, abs=ULPS)
    if n == 2:
        assert found[1] == 1.0 - found[0] or found[0] == 1.0 - found[1]


@bar(5_000)
@given(SIZES, SEEDS)
def test_rloo_is_grpo_scaled(n: int, generator: random.Random) -> None:
    """Against the mean of the others an advantage is n / (n - 1) times as large, whatever the matrix."""
    table = kept(generator, n)
    found = scores(n, lambda i, j: table[i, j])
    rloo = [s - (math.fsum(found) - s) / (n - 1) for s in found]
    assert rloo == pytest.approx([a * n / (n - 1) for a in advantages(found)], abs=ULPS)


@bar(5_000)
@given(SIZES, SEEDS)
def test_renaming_the_responses_renames_the_advantages(n: int, generator: random.Random) -> None:
    """To rounding: 1 - (1 - p) is p only to the last bit."""
    table = kept(generator, n)
    moved = generator.sample(range(n), n)

    def renamed(i: int, j: int) -> float:
        a, b = moved[i], moved[j]
        return table[a, b] if a < b else 1.0 - table[b, a]

    before, after = scores(n, lambda i, j: table[i, j]), scores(n, renamed)
    assert after == pytest.approx([before[i] for i in moved], abs=ULPS)


def test_a_cycle_gives_nobody_an_advantage() -> None:
    table = {(0, 1): 0.9, (1, 2): 0.9, (0, 2): 0.1}
    assert advantages(scores(3, lambda i, j: table[i, j])) == pytest.approx([0.0, 0.0, 0.0], abs=ULPS)


def test_a_pivot_has_no_such_mean() -> None:
    """Against a strong pivot everybody loses: pivot scores are about the pivot, not about the group."""
    found = scores(4, lambda i, j: 0.9, "pivot")
    assert math.fsum(found) / 4 < 0.4
