"""The Swiss plan: nobody twice, everybody at least once, n log n comparisons, an order close to the true one."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranking.board import RankTask
from service.ranking.swiss import swiss_rounds
from tests.service.ranking.test_plans import noisy_judge, run, true_judge
from tests.support.properties import bar


@bar(2_000)
@given(st.integers(2, 64), st.randoms(use_true_random=False))
def test_everybody_is_judged_and_nobody_meets_twice(n: int, generator: random.Random) -> None:
    ranking, batches = run("swiss", RankTask(n), noisy_judge(generator))
    asked = [pair for batch in batches for pair in batch]
    assert len(set(asked)) == len(asked) == ranking.comparisons <= swiss_rounds(n) * (n // 2)
    assert {i for pair in asked for i in pair} == set(range(n))
    for batch in batches:
        assert len({i for pair in batch for i in pair}) == 2 * len(batch)


@pytest.mark.parametrize(("n", "comparisons"), [(2, 1), (3, 3), (4, 6), (8, 16), (16, 40), (64, 224)])
def test_comparisons_are_n_log_n(n: int, comparisons: int) -> None:
    generator = random.Random(n)
    judge = true_judge([generator.gauss(0.0, 2.0) for _ in range(n)])
    asked = run("swiss", RankTask(n), judge)[0].comparisons
    assert asked <= comparisons == min(n // 2 * (math.ceil(math.log2(n)) + 1), n * (n - 1) // 2)
    assert asked >= 0.9 * comparisons


def test_equals_meet_equals() -> None:
    """After the first round the winners meet each other, and the losers."""
    _, batches = run("swiss", RankTask(4), true_judge([3.0, 0.0, 2.0, 1.0]))
    assert batches[:2] == [[(0, 1), (2, 3)], [(0, 2), (1, 3)]]


def test_an_odd_one_out_is_not_the_same_every_round() -> None:
    _, batches = run("swiss", RankTask(5), true_judge([5.0, 4.0, 3.0, 2.0, 1.0]))
    idle = [(set(range(5)) - {i for pair in batch for i in pair}).pop() for batch in batches[:3]]
    assert len(set(idle)) == 3


@bar(200)
@given(st.integers(8, 40), st.integers(0, 10**6))
def test_scores_follow_the_true_order_closely(n: int, seed: int) -> None:
    """Under a true judge of spread-out qualities nine pairs of ten stand as they should (Kendall's tau of 0.8)."""
    generator = random.Random(seed)
    qualities = [generator.gauss(0.0, 2.0) for _ in range(n)]
    scores = [result.score for result in run("swiss", RankTask(n), true_judge(qualities))[0].results]
    pairs = [(i, j) for i in range(n) for j in range(i)]
    right = sum((scores[i] > scores[j]) == (qualities[i] > qualities[j]) for i, j in pairs)
    assert right / len(pairs) >= 0.9


def test_rounds_end_when_everybody_has_met() -> None:
    assert [swiss_rounds(n) for n in (1, 2, 3, 4, 5, 6)] == [0, 1, 3, 3, 4, 4]
