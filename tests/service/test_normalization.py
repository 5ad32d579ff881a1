"""Window statistics and rewards: exact, independent of order, and never a number made from a failure."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.errors import InternalError, InvalidInput, JudgmentFailed, NonFiniteScore, ServiceError
from service.normalization import MAX_ABS_SCORE, MIN_STD, WindowStats, check_scores, normalize, window_stats
from tests.support.properties import bar
from tests.support.reference import reference_stats

SCORES = st.floats(-MAX_ABS_SCORE, MAX_ABS_SCORE)
WINDOWS = st.lists(SCORES, min_size=1, max_size=60)
ANYTHING = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3), st.sampled_from([1e308, -1e308, 5e-324])
)


@bar(10_000)
@given(WINDOWS)
def test_q1_stats_are_the_exact_two_pass_ones(scores: list[float]) -> None:
    """Q1, the arithmetic; the store contract checks the windows."""
    assert window_stats(check_scores(scores)) == reference_stats([score + 0.0 for score in scores])


@bar(5_000)
@given(WINDOWS, st.randoms(use_true_random=False))
def test_q2_stats_do_not_depend_on_order(scores: list[float], shuffler: random.Random) -> None:
    """Q2."""
    shuffled = list(scores)
    shuffler.shuffle(shuffled)
    assert window_stats(shuffled) == window_stats(scores)


def test_a_large_offset_keeps_its_variance() -> None:
    spread = [0.25, -0.25] * 500
    offset = [999_999.0 + x for x in spread]
    assert window_stats(offset) == WindowStats(1000, 999_999.0, 0.25)


def test_an_empty_window_has_stats() -> None:
    assert window_stats([]) == WindowStats(0, 0.0, 0.0)


@bar(20_000)
@given(st.lists(ANYTHING, min_size=1, max_size=5))
def test_q3_any_input_is_refused_or_gives_finite_rewards(values: list[float]) -> None:
    """Q3, the arithmetic."""
    try:
        scores = check_scores(values)
    except ServiceError:
        assert not all(isinstance(v, float) and math.isfinite(v) and abs(v) <= MAX_ABS_SCORE for v in values)
        return
    stats = window_stats(scores)
    assert math.isfinite(stats.mean)
    assert math.isfinite(stats.std)
    assert stats.std >= 0.0
    assert all(math.isfinite(reward.reward) for reward in normalize(scores, stats, min_count=1).rewards)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, NonFiniteScore),
        (math.inf, NonFiniteScore),
        (-math.inf, NonFiniteScore),
        (1e6 * (1 + 1e-15), JudgmentFailed),
        (-1e308, JudgmentFailed),
        (1, InternalError),
        (True, InternalError),
        (None, InternalError),
        ("nan", InternalError),
    ],
)
def test_a_score_that_is_no_score_is_refused(value: float, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        check_scores([0.5, value])
    with pytest.raises(error):
        normalize([value], WindowStats(100, 0.5, 0.1))


def test_negative_zero_enters_as_zero() -> None:
    (score,) = check_scores([-0.0])
    assert math.copysign(1.0, score) == 1.0


@pytest.mark.parametrize("min_count", [1, 2, 16])
@pytest.mark.parametrize("away", [-1, 0, 1])
def test_q7_cold_start_ends_exactly_at_min_count(min_count: int, away: int) -> None:
    """Q7: below min_count rewards are the scores, unscaled; from it on they are scaled z-scores."""
    stats = WindowStats(min_count + away, 0.5, 0.25)
    result = normalize([1.0], stats, scale=10.0, min_count=min_count)
    assert result.normalized == (away >= 0)
    assert not result.degenerate
    assert result.rewards[0].reward == (20.0 if away >= 0 else 1.0)


def test_q7_windows_of_one_and_two() -> None:
    """Q7: one score has no spread; two differ by one standard deviation each from their mean."""
    one = normalize([0.7], window_stats([0.7]), min_count=1)
    assert (one.rewards[0].reward, one.degenerate, one.normalized) == (0.0, True, True)
    two = normalize([0.25, 0.75], window_stats([0.25, 0.75]), min_count=1)
    assert [reward.reward for reward in two.rewards] == [-1.0, 1.0]


@bar(1_000)
@given(SCORES, st.integers(1, 60))
def test_q8_a_constant_window_is_degenerate(score: float, count: int) -> None:
    """Q8."""
    result = normalize([score], window_stats([score] * count), scale=10.0, min_count=1)
    assert result.degenerate
    assert result.rewards[0].reward == 0.0


def test_the_degenerate_bound_is_exclusive() -> None:
    assert normalize([1.0], WindowStats(16, 0.0, math.nextafter(MIN_STD, 0.0))).degenerate
    assert not normalize([1.0], WindowStats(16, 0.0, MIN_STD)).degenerate


@bar(5_000)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40), st.floats(0.01, 100), st.floats(-100, 100))
def test_q9_rewards_do_not_know_units(scores: list[float], a: float, b: float) -> None:
    """Q9: z(a x + b) = z(x); and a better score never earns less."""
    moved = [a * score + b for score in scores]
    stats, moved_stats = window_stats(scores), window_stats(moved)
    assume(stats.std >= 0.01 and moved_stats.std >= 0.01)
    before = normalize(scores, stats, min_count=1).rewards
    after = normalize(moved, moved_stats, min_count=1).rewards
    for one, other in zip(before, after, strict=True):
        assert one.clipped or other.clipped or one.reward == pytest.approx(other.reward, abs=1e-9)
    ranked = [reward.reward for _, reward in sorted(zip(scores, before, strict=True), key=lambda pair: pair[0])]
    assert ranked == sorted(ranked)


def test_clipping_moves_to_the_edge_and_says_so() -> None:
    stats = WindowStats(1000, 0.0, 0.1)
    result = normalize([1.5, 1.0, -1.5, 0.5], stats, scale=2.0, clip=10.0)
    assert [(r.reward, r.clipped) for r in result.rewards] == [
        (20.0, True),
        (20.0, False),
        (-20.0, True),
        (10.0, False),
    ]


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.0}, {"scale": math.nan}, {"scale": 2e6}, {"clip": 0.0}, {"clip": math.inf}, {"min_count": 0}],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        normalize([0.5], WindowStats(100, 0.5, 0.1), **options)  # type: ignore[arg-type]
