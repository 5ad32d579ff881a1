"""Pseudo-labels from verdicts."""

from __future__ import annotations

import pytest

from service.types import Verdict, Votes
from training.selftrain.labelling import PseudoLabel, label_of


def _verdict(p_first: float, votes: Votes | None) -> Verdict:
    return Verdict(p_first, 0.0, p_first, 1.0 - p_first, True, 1.0, votes)


@pytest.mark.parametrize(
    ("p_first", "votes", "found"),
    [
        (0.9, Votes(8, 0), PseudoLabel("a", 0.9)),
        (0.1, Votes(1, 6, 1), PseudoLabel("b", 0.9)),
        (0.75, Votes(8, 0), "low confidence"),
        (0.9, Votes(4, 4), "votes tied"),
        (0.9, Votes(3, 5), "low confidence"),  # majority and probability point different ways
        (0.85, None, PseudoLabel("a", 0.85)),
        (0.5, None, "votes tied"),
    ],
)
def test_majority_decides_and_the_averaged_probability_is_the_confidence(
    p_first: float, votes: Votes | None, found: object
) -> None:
    assert label_of(_verdict(p_first, votes), 0.8) == found


def test_without_a_threshold_a_contradiction_is_still_dropped() -> None:
    assert label_of(_verdict(0.4, Votes(5, 3)), 0.0) == "low confidence"
    assert label_of(_verdict(0.51, Votes(5, 3)), 0.0) == PseudoLabel("a", 0.51)
