"""The replay stops where the service would, and tells an answer that stopping changed."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.votes import Round, Vote, replay, report, votes_of
from service.aggregation import vote_slots

K = 4


def cast(*p_a: float | None) -> list[Vote]:
    """A vote in every slot, by its P(a better); ten tokens each."""
    return [
        Vote(order, number, "invalid" if p is None else "a" if p > 0.5 else "b", p, 10)
        for (order, number), p in zip(vote_slots(K), p_a, strict=True)
    ]


@pytest.mark.parametrize(
    ("p_a", "asked", "answer"),
    [
        ([1.0] * 8, 5, "a"),
        ([0.0] * 8, 5, "b"),
        ([1.0, 0.0, *[1.0] * 6], 6, "a"),
        ([1.0, 0.0] * 4, 8, "tie"),
        ([None] * 2 + [1.0] * 6, 6, "a"),
        ([1.0, None] * 4, 8, None),
    ],
)
def test_a_replay_stops_as_soon_as_the_answer_stands(p_a: list[float | None], asked: int, answer: str | None) -> None:
    found = replay(cast(*p_a), K)
    assert (found.votes, found.tokens, found.full) == (asked, 10 * asked, answer)
    assert not found.changed
    assert not found.majority_turned


def test_a_reply_without_every_vote_cannot_be_replayed() -> None:
    with pytest.raises(ValueError, match="every vote"):
        replay(cast(*[1.0] * 8)[:-1], K)


def test_votes_are_read_in_the_order_they_are_asked_in() -> None:
    rationales = [
        {"order": order, "vote": vote, "verdict": "a", "probability": 0.9, "tokens": 3}
        for order in ("ab", "ba")
        for vote in range(2)
    ]
    assert [(v.order, v.number) for v in votes_of({"rationales": rationales})] == list(vote_slots(2))


def test_the_report_sets_live_tokens_against_all_votes() -> None:
    every = Round([cast(*[1.0] * 8), cast(*[0.0] * 8)], ["a", "b"], [2.0, 2.0])
    stopping = Round([cast(*[1.0] * 8)[:5], cast(*[0.0] * 8)[:6]], ["a", "a"], [1.0, 1.0])
    made = report(every, stopping, Namespace(votes=K, seed=1))
    assert {bar.what: bar.measured for bar in made.bars} == {
        "generated tokens saved by stopping": pytest.approx(1 - 110 / 160),
        "generated tokens saved, replayed on the same votes": pytest.approx(1 - 100 / 160),
        "answers changed by stopping, same votes": 0,
        "majorities of letters turned by stopping, same votes": 0,
    }
    assert "1 of 2 pairs" in made.notes[0]
    assert made.holds
