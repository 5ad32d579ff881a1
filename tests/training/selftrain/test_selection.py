"""The ratio score and the policies it is compared with."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.properties import bar
from training.selftrain.selection import Likelihoods, choose

NATS = st.floats(-1e4, -1e-3)


def test_the_score_of_the_paper() -> None:
    assert Likelihoods(-10.0, -40.0).score == -0.25
    assert Likelihoods(-40.0, -40.0).score == -1.0


@bar(2_000)
@given(NATS, NATS, st.floats(0.001, 1.0))
def test_more_probable_with_its_pair_and_less_without_it_is_better(given_: float, alone: float, less: float) -> None:
    plain = Likelihoods(given_, alone).score
    assert plain <= 0.0
    assert Likelihoods(given_ * less, alone).score >= plain
    assert Likelihoods(given_, alone * less).score <= plain


def test_a_broken_number_is_never_chosen() -> None:
    bad = [Likelihoods(math.nan, -1.0), Likelihoods(-1.0, -math.inf), None]
    assert choose(bad, "ratio", 1) is None
    assert choose([*bad, Likelihoods(-9.0, -1.0)], "ratio", 1) == 3
    assert choose([*bad[:1], Likelihoods(-9.0, math.nan)], "likelihood", 1) == 1
    assert Likelihoods(-1.0, 0.0).score == -math.inf


@pytest.mark.parametrize(("policy", "kept"), [("ratio", 1), ("likelihood", 0), ("first", 0)])
def test_the_policies_differ(policy: str, kept: int) -> None:
    generic, specific = Likelihoods(-4.0, -5.0), Likelihoods(-6.0, -30.0)
    assert choose([generic, specific], policy, 1) == kept  # type: ignore[arg-type]


def test_random_is_seeded_and_fair_enough() -> None:
    drawn = [choose([None] * 4, "random", seed) for seed in range(400)]
    assert drawn == [choose([None] * 4, "random", seed) for seed in range(400)]
    assert all(drawn.count(i) > 60 for i in range(4))


def test_of_equals_the_first_and_of_none_none() -> None:
    assert choose([Likelihoods(-1.0, -2.0)] * 3, "ratio", 1) == 0
    assert choose([], "first", 1) is None
