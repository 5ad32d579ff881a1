"""The Bradley-Terry fit: recovers what made the matrix, stays finite where it must, and knows its own error."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranking.strength import PRIOR_PRECISION, bradley_terry, win_probability
from tests.support.properties import bar

Wins = list[list[float | None]]


def matrix_of(strengths: list[float]) -> Wins:
    return [
        [None if i == j else win_probability(a - b) for j, b in enumerate(strengths)] for i, a in enumerate(strengths)
    ]


@bar(1_000)
@given(st.lists(st.floats(-1.5, 1.5), min_size=2, max_size=12))
def test_noise_free_strengths_come_back(strengths: list[float]) -> None:
    fitted, errors = bradley_terry(matrix_of(strengths))
    mean = statistics.fmean(strengths)
    assert fitted == pytest.approx([s - mean for s in strengths], abs=0.05)
    assert all(0.0 < error < 5.0 for error in errors)


@bar(1_000)
@given(st.integers(1, 12), st.data())
def test_any_matrix_has_a_finite_stationary_fit(n: int, data: st.DataObject) -> None:
    """Ties, cycles, certainty, missing and disconnected pairs: the stated objective has gradient zero at the fit."""
    wins: Wins = [[None] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            p = data.draw(st.one_of(st.none(), st.floats(0.0, 1.0), st.sampled_from([0.0, 0.5, 1.0])))
            wins[i][j], wins[j][i] = p, None if p is None else 1.0 - p
    strengths, errors = bradley_terry(wins)
    assert all(math.isfinite(value) for value in [*strengths, *errors])
    assert sum(strengths) == pytest.approx(0.0, abs=1e-6)
    for i in range(n):
        surprise = sum(
            p - win_probability(strengths[i] - strengths[j]) for j in range(n) if (p := wins[i][j]) is not None
        )
        assert surprise == pytest.approx(PRIOR_PRECISION * strengths[i], abs=1e-6)


def test_the_order_of_responses_does_not_matter() -> None:
    wins = matrix_of([0.3, -1.0, 2.0, 0.0])
    turned = [row[::-1] for row in wins[::-1]]
    strengths, errors = bradley_terry(wins)
    assert bradley_terry(turned)[0] == pytest.approx(strengths[::-1], abs=1e-8)
    assert bradley_terry(turned)[1] == pytest.approx(errors[::-1], abs=1e-8)


def test_separable_data_stay_finite_and_ordered() -> None:
    strengths, errors = bradley_terry([[None, 1.0, 1.0], [0.0, None, 1.0], [0.0, 0.0, None]])
    assert strengths[0] > strengths[1] > strengths[2]
    assert max(map(abs, strengths)) < 10.0
    assert min(errors) > 1.0  # nothing but the prior bounds these strengths, and the errors say so


def test_one_pair_keeps_nearly_all_of_its_log_odds() -> None:
    (a, b), _ = bradley_terry([[None, 0.99], [0.01, None]])
    assert 0.95 < (a - b) / math.log(99) < 1.0


def test_a_cycle_is_a_tie() -> None:
    strengths, _ = bradley_terry([[None, 0.9, 0.1], [0.1, None, 0.9], [0.9, 0.1, None]])
    assert strengths == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


def test_two_equals_have_the_textbook_error() -> None:
    """Information of a fair pair is 1/4 on the difference; each strength (mean 0) is half the difference."""
    _, errors = bradley_terry([[None, 0.5], [0.5, None]])
    assert errors == pytest.approx([1.0, 1.0], rel=0.01)


def test_standard_errors_cover_the_truth() -> None:
    """With hard wins drawn from known strengths, about 68 % of fits lie within one standard error, 95 % within two."""
    generator = random.Random(7)
    truth = [0.6, 0.2, -0.1, -0.7, 0.0, 0.3, -0.3, 0.0]
    within_one = within_two = total = 0
    for _ in range(150):
        wins: Wins = [[None] * 8 for _ in truth]
        for i in range(8):
            for j in range(i + 1, 8):
                won = float(generator.random() < win_probability(truth[i] - truth[j]))
                wins[i][j], wins[j][i] = won, 1.0 - won
        strengths, errors = bradley_terry(wins)
        for strength, error, true in zip(strengths, errors, truth, strict=True):
            within_one += abs(strength - true) <= error
            within_two += abs(strength - true) <= 2 * error
            total += 1
    assert 0.60 < within_one / total < 0.76
    assert within_two / total > 0.92


def test_a_single_response_has_nothing_to_fit() -> None:
    assert bradley_terry([[None]]) == ([0.0], [0.0])
