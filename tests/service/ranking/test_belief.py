"""Strengths with the judge's own noise: errors that cover, a noise that is found, certainty where all was asked."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from service.ranking.belief import believe
from service.ranking.strength import bradley_terry, win_probability

Wins = list[list[float | None]]


def complete(strengths: list[float], sd: float, seed: int) -> Wins:
    generator, n = random.Random(seed), len(strengths)
    wins: Wins = [[None] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            p = win_probability(strengths[i] - strengths[j] + generator.gauss(0.0, sd))
            wins[i][j], wins[j][i] = p, 1.0 - p
    return wins


TRUTH = [0.9, 0.4, 0.1, -0.2, -0.7, -0.5, 0.3, -0.3, 0.0, 0.0]


@pytest.mark.parametrize("sd", [0.3, 1.0, 1.5])
def test_the_noise_of_the_judge_is_found(sd: float) -> None:
    found = [believe(complete(TRUTH, sd, seed)).noise for seed in range(40)]
    prior = 4.0 / (4.0 + 30.0)  # weight of the prior beside about 45 pairs less 9 fitted strengths
    assert statistics.fmean(found) == pytest.approx((1 - prior) * sd**2 + prior, rel=0.2)


@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_standard_errors_cover_the_truth(sd: float) -> None:
    """About 68 % within one error, 95 % within two; coin-flip errors would be far wider."""
    within_one = within_two = total = 0
    for seed in range(60):
        belief = believe(complete(TRUTH, sd, seed))
        for fitted, error, true in zip(belief.strengths, belief.standard_errors(), TRUTH, strict=True):
            within_one += abs(fitted - true) <= error
            within_two += abs(fitted - true) <= 2 * error
            total += 1
    assert 0.58 < within_one / total < 0.85
    assert within_two / total > 0.9
    coin_flips = bradley_terry(complete(TRUTH, sd, 0))[1]
    assert statistics.fmean(believe(complete(TRUTH, sd, 0)).standard_errors()) < statistics.fmean(coin_flips)


def test_strengths_are_those_of_the_plain_fit() -> None:
    wins = complete(TRUTH, 1.0, 5)
    wins[0][1] = wins[1][0] = wins[4][7] = wins[7][4] = None
    assert believe(wins).strengths == pytest.approx(bradley_terry(wins)[0], abs=1e-9)
    assert believe(wins, start=[s - 1.0 for s in [1.0] * 10]).strengths == pytest.approx(bradley_terry(wins)[0])


def test_nothing_is_left_to_move_when_all_was_asked() -> None:
    belief = believe(complete(TRUTH, 1.0, 1))
    assert belief.still_to_move(0, 4) == pytest.approx(0.0, abs=1e-9)
    assert min(belief.standard_errors()) > 0.05


def test_each_answer_leaves_less_to_move() -> None:
    full = complete(TRUTH, 0.7, 2)
    wins: Wins = [[None] * 10 for _ in range(10)]
    left = []
    for gap in range(1, 10):
        for i in range(10 - gap):
            wins[i][i + gap], wins[i + gap][i] = full[i][i + gap], full[i + gap][i]
        left.append(believe(wins).still_to_move(0, 9))
    assert left[0] > left[3] > left[6] > left[8]


def test_a_judged_pair_tells_less_than_an_unknown_one() -> None:
    """1 and 2 have met 0 alone; once they have met each other there is less to learn about them."""
    wins: Wins = [[None] * 4 for _ in range(4)]
    for j, p in enumerate((0.55, 0.5, 0.999), start=1):
        wins[0][j], wins[j][0] = p, 1.0 - p
    belief = believe(wins)
    assert belief.gain(1, 2) > 0.0
    wins[1][2] = wins[2][1] = 0.5
    assert 0.0 < believe(wins).gain(1, 2) < belief.gain(1, 2)


def test_an_isolated_lopsided_answer_is_certain_enough() -> None:
    """Coin-flip errors of one pair at 0.98 are 7 nats; the judge's noise is what it is."""
    belief = believe([[None, 0.98], [0.02, None]])
    assert belief.strengths[0] - belief.strengths[1] > 3.0
    assert belief.standard_errors()[0] < 1.5


def test_certainty_and_nothing_at_all_are_finite() -> None:
    for wins in ([[None]], [[None, None], [None, None]], [[None, 1.0], [0.0, None]]):
        belief = believe(wins)  # type: ignore[arg-type]
        assert all(math.isfinite(x) for x in [*belief.strengths, *belief.standard_errors(), belief.noise])
