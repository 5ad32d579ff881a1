"""Majorities, and when they are decided."""

from __future__ import annotations

import numpy as np

from training.studies.judges import LABEL_A, LABEL_B
from training.studies.reasoning.rationales import PAD
from training.studies.reasoning.votes import counted
from training.studies.reasoning.voting import Ballot, majority, needed_votes, probability_of_a, swapped

A, B, NONE = LABEL_A, LABEL_B, PAD


def test_a_majority_of_valid_votes_decides_and_probability_where_they_are_level() -> None:
    verdict = np.array([[A, A, A, NONE, NONE], [B, B, NONE, NONE, B], [B, A, NONE, NONE, A]])
    p_a = np.array([[0.9, 0.9, 0.9, 0.5, 0.5], [0.4, 0.2, 0.5, 0.5, 0.1], [0.4, 0.9, 0.5, 0.5, 0.8]])
    assert list(majority(verdict, p_a)) == [B, A, A, NONE, B]


def test_swapping_twice_is_nothing() -> None:
    verdict = np.array([A, B, NONE])
    assert list(swapped(verdict)) == [B, A, NONE]
    assert list(swapped(swapped(verdict))) == list(verdict)


def test_what_is_decided_no_later_votes_can_change_and_one_vote_less_could() -> None:
    rng = np.random.default_rng(0)
    verdict = rng.choice([A, A, B, NONE], size=(7, 400))
    needed = needed_votes(verdict)
    for pair in range(400):
        n, votes = needed[pair], verdict[:, pair]
        lead = int((votes[:n] == A).sum() - (votes[:n] == B).sum())
        assert abs(lead) > 7 - n or n == 7
        before = int((votes[: n - 1] == A).sum() - (votes[: n - 1] == B).sum())
        assert abs(before) <= 7 - (n - 1)


def ballot(verdict: list[list[int]], confidence: float = 0.9) -> Ballot:
    text = np.array(verdict)[:, :, None]
    return Ballot(np.concatenate([np.full_like(text, 3), text], axis=2), np.full(text.shape[:2], confidence))


def test_the_probability_of_a_is_of_the_verdict_written() -> None:
    np.testing.assert_allclose(probability_of_a(ballot([[A, B, NONE]])), [[0.9, 0.1, 0.5]])


def test_votes_are_counted_in_both_orders() -> None:
    first = ballot([[A, B, A], [A, B, A], [B, B, A]])
    second = ballot([[B, B, A], [B, B, A], [B, B, B]])
    found = counted(first, second)
    assert found["accuracy"] == np.mean([1, 0, 1, 1, 1, 0])
    assert found["both/accuracy"] == np.mean([1, 0, 1])  # the second pair's votes are level, as are their probabilities
    assert found["consistency"] == 1 / 3
    assert found["tokens"] == 6.0
    assert found["same"] == 1.0
    assert found["tokens_saved"] == 1 - (2 + 2 + 2 + 2 + 2 + 2) / 18
