"""Two orders and k votes to one verdict: exact complements, exact ties, failures that stay failures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.aggregation import (
    VoteReading,
    canonical,
    combine,
    combine_votes,
    identical,
    is_decided,
    mirror,
    vote_slots,
    votes_worth_asking,
)
from service.errors import InternalError, InvalidVerdict, NonFiniteScore
from service.types import Comparison, Flag, Label, Order, OrderReading, Prompt, Rationale, Response, Verdict, Votes
from tests.support.properties import bar

PROBABILITIES = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.5, 1.0, 5e-324, 1 - 2**-53, 0.5 + 2**-53]))
READINGS = st.builds(OrderReading, PROBABILITIES, st.floats(-800, 800), st.one_of(st.none(), st.floats(0.0, 1.0)))


def a_vote(
    order: Order, number: int, verdict: Label, reading: OrderReading | None, conflicting: int = 0
) -> VoteReading:
    return VoteReading(Rationale(order, number, "text", {}, verdict, None, "stop"), reading, conflicting)


@st.composite
def votes_of(draw: st.DrawFn, order: Order, k: int, at_least: int = 0) -> list[VoteReading]:
    """Up to k votes of an order, of which the first `at_least` are valid."""
    votes = []
    for number in range(draw(st.integers(at_least, k))):
        valid = number < at_least or draw(st.booleans())
        label = draw(st.sampled_from(["a", "b"])) if valid else "invalid"
        votes.append(a_vote(order, number, label, draw(READINGS) if valid else None, draw(st.integers(0, 2))))
    return votes


def compare(first: str, second: str, ab: OrderReading, ba: OrderReading) -> Verdict:
    """A judge that reads `ab` on the canonical order and `ba` on the other, asked in the caller's order."""
    _, swapped = canonical(Comparison(Prompt.from_text("q"), Response(first), Response(second)))
    return mirror(combine(ab, ba)) if swapped else combine(ab, ba)


@bar(5_000)
@given(READINGS, READINGS)
def test_j1_the_two_callers_get_exact_complements(ab: OrderReading, ba: OrderReading) -> None:
    """J1."""
    one, other = compare("x", "y", ab, ba), compare("y", "x", ab, ba)
    assert one.p_first == 1.0 - other.p_first
    assert other.p_first == 1.0 - one.p_first
    assert one.margin == -other.margin
    assert (one.p_ab, one.p_ba) == (other.p_ba, other.p_ab)
    assert (1.0 - (1.0 - one.p_ab), 1.0 - (1.0 - one.p_ba)) == (one.p_ab, one.p_ba)
    assert one.consistent == other.consistent
    assert {one.preferred, other.preferred} in ({"a", "b"}, {"tie"})


@bar(5_000)
@given(READINGS, READINGS)
def test_j1_probabilities_stay_probabilities(ab: OrderReading, ba: OrderReading) -> None:
    verdict = combine(ab, ba)
    assert 0.0 <= verdict.p_first <= 1.0
    assert verdict.p_first == pytest.approx((ab.p_shown_first + 1.0 - ba.p_shown_first) / 2, abs=1e-15)
    assert (verdict.p_ab, verdict.p_ba) == pytest.approx((ab.p_shown_first, ba.p_shown_first), abs=1e-15)
    assert (verdict.preferred == "tie") == (verdict.p_first == 0.5)
    assert math.isfinite(verdict.margin)


@bar(5_000)
@given(READINGS, READINGS)
def test_evaluating_the_other_way_round_is_mirroring(ab: OrderReading, ba: OrderReading) -> None:
    verdict = combine(ab, ba)
    assert combine(ba, ab) == mirror(verdict)
    assert mirror(mirror(verdict)) == verdict


@pytest.mark.parametrize(
    ("p_ab", "p_ba", "consistent", "preferred"),
    [
        (0.9, 0.2, True, "a"),
        (0.2, 0.9, True, "b"),
        (0.9, 0.8, False, "a"),
        (0.8, 0.9, False, "b"),
        (0.9, 0.9, False, "tie"),
        (0.5, 0.5, True, "tie"),
        (0.5, 0.1, False, "a"),
    ],
)
def test_consistent_means_both_orders_favour_the_same_side(
    p_ab: float, p_ba: float, consistent: bool, preferred: str
) -> None:
    verdict = combine(OrderReading(p_ab, 0.0, None), OrderReading(p_ba, 0.0, None))
    assert (verdict.consistent, verdict.preferred) == (consistent, preferred)


def test_margin_is_the_mean_log_odds_and_mass_the_smaller() -> None:
    verdict = combine(OrderReading(0.9, 2.0, 0.99), OrderReading(0.4, -0.5, 0.95))
    assert (verdict.margin, verdict.label_mass) == (1.25, 0.95)
    assert combine(OrderReading(0.9, 2.0, 0.99), OrderReading(0.4, -0.5, None)).label_mass is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["p_shown_first", "log_odds", "label_mass"])
def test_what_is_not_finite_is_never_a_verdict(field: str, bad: float) -> None:
    good = OrderReading(0.5, 0.0, 1.0)
    broken = replace(good, **{field: bad})
    for ab, ba in ((good, broken), (broken, good)):
        with pytest.raises(NonFiniteScore):
            combine(ab, ba)
        with pytest.raises(NonFiniteScore):
            combine_votes([a_vote("ab", 0, "a", ab), a_vote("ba", 0, "b", ba)], 1)


def test_a_probability_outside_its_range_is_our_mistake() -> None:
    with pytest.raises(InternalError):
        combine(OrderReading(1.5, 0.0, None), OrderReading(0.5, 0.0, None))


@bar(1_000)
@given(st.text(), st.text())
def test_both_callers_have_one_canonical_pair(first: str, second: str) -> None:
    comparison = Comparison(Prompt.from_text("q"), Response(first), Response(second))
    pair, swapped = canonical(comparison)
    assert pair == canonical(comparison.swap())[0]
    assert pair == (comparison.swap() if swapped else comparison)
    assert pair.first.text <= pair.second.text


def test_identical_responses_tie_exactly() -> None:
    verdict = identical()
    assert (verdict.p_first, verdict.margin, verdict.preferred, verdict.label_mass) == (0.5, 0.0, "tie", None)
    assert mirror(verdict) == verdict


@bar(2_000)
@given(votes_of("ab", 4, at_least=1), votes_of("ba", 4, at_least=1))
def test_votes_are_averaged_within_their_order(ab: list[VoteReading], ba: list[VoteReading]) -> None:
    verdict = combine_votes([*ba, *ab], 4)
    for votes, p in ((ab, verdict.p_ab), (ba, verdict.p_ba)):
        read = [vote.reading.p_shown_first for vote in votes if vote.reading is not None]
        assert p == pytest.approx(sum(read) / len(read), abs=1e-12)
    votes = verdict.votes
    assert votes is not None
    assert votes.a + votes.b + votes.invalid + votes.skipped == 8
    assert votes.skipped == 8 - len(ab) - len(ba)
    assert votes.invalid == sum(vote.rationale.verdict == "invalid" for vote in [*ab, *ba])
    assert [r.order for r in verdict.rationales] == ["ab"] * len(ab) + ["ba"] * len(ba)
    assert [r.vote for r in verdict.rationales] == [*range(len(ab)), *range(len(ba))]
    assert mirror(mirror(verdict)) == verdict


def test_mirroring_renames_votes_flags_and_rationales() -> None:
    ab = [a_vote("ab", 0, "a", OrderReading(0.9, 2.0, None)), a_vote("ab", 1, "invalid", None)]
    ba = [a_vote("ba", 0, "a", OrderReading(0.3, -1.0, None), conflicting=2)]
    verdict = combine_votes([*ab, *ba], 2)
    flags = (Flag("looks_like_verdict", 1, "a"), Flag("control_text", 2, "prompt"), *verdict.flags)
    mirrored = mirror(replace(verdict, flags=flags))
    assert verdict.votes == Votes(a=2, b=0, invalid=1, skipped=1)
    assert mirrored.votes == Votes(a=0, b=2, invalid=1, skipped=1)
    assert [(flag.code, flag.count, flag.where) for flag in mirrored.flags] == [
        ("looks_like_verdict", 1, "b"),
        ("control_text", 2, "prompt"),
        ("multiple_verdicts", 2, "rationale"),
    ]
    assert [(r.order, r.vote, r.verdict) for r in mirrored.rationales] == [
        ("ab", 0, "b"),
        ("ba", 0, "b"),
        ("ba", 1, "invalid"),
    ]
    assert [r.probability for r in verdict.rationales] == [0.9, None, 0.7]
    for rationale, other in zip(mirrored.rationales, (0.7, 0.9, None), strict=True):
        assert rationale.probability == (None if other is None else 1.0 - other)


def test_an_order_without_a_valid_vote_fails_the_pair() -> None:
    valid = a_vote("ab", 0, "a", OrderReading(0.9, 2.0, None))
    for readings in ([valid], [valid, a_vote("ba", 0, "invalid", None)], []):
        with pytest.raises(InvalidVerdict):
            combine_votes(readings, 1)


def test_an_invalid_vote_weighs_nothing() -> None:
    votes = [a_vote("ab", 0, "a", OrderReading(0.9, 2.0, None)), a_vote("ba", 0, "a", OrderReading(0.2, -1.0, None))]
    with_invalid = [*votes, a_vote("ab", 1, "invalid", None), a_vote("ba", 1, "invalid", None)]
    assert combine_votes(with_invalid, 2).p_first == combine_votes(votes, 1).p_first


def test_a_verdict_without_its_probability_is_our_mistake() -> None:
    with pytest.raises(InternalError):
        combine_votes([a_vote("ab", 0, "a", None), a_vote("ba", 0, "a", OrderReading(0.2, -1.0, None))], 1)


def test_more_votes_than_asked_for_are_our_mistake() -> None:
    votes = [a_vote(order, n, "a", OrderReading(0.6, 0.4, None)) for order in ("ab", "ba") for n in (0, 1)]
    with pytest.raises(InternalError):
        combine_votes(votes, 1)


@bar(5_000)
@given(st.data(), st.integers(1, 4))
def test_a_decided_vote_cannot_be_turned(data: st.DataObject, k: int) -> None:
    """Whatever the remaining votes say, the preferred side stays; all votes in means decided."""
    seen = data.draw(votes_of("ab", k)) + data.draw(votes_of("ba", k))
    if not is_decided(seen, k):
        assert len(seen) < 2 * k
        return
    if len(seen) == 2 * k:
        return
    before = combine_votes(seen, k).preferred
    rest = []
    for order in ("ab", "ba"):
        for number in range(sum(vote.rationale.order == order for vote in seen), k):
            reading = data.draw(st.one_of(st.none(), READINGS, st.sampled_from([_sure(0.0), _sure(1.0)])))
            rest.append(a_vote(order, number, "invalid" if reading is None else "a", reading))  # type: ignore[arg-type]
    assert combine_votes(seen + rest, k).preferred == before


def _sure(p: float) -> OrderReading:
    return OrderReading(p, 0.0, None)


def test_votes_are_decided_as_soon_as_they_are() -> None:
    """Three of four certain votes for a in each order: the last two cannot outvote them. Two of four could draw."""
    ab = [a_vote("ab", n, "a", _sure(1.0)) for n in range(3)]
    ba = [a_vote("ba", n, "a", _sure(0.0)) for n in range(3)]
    assert is_decided([*ab, *ba], 4)
    assert not is_decided([*ab[:2], *ba[:2]], 4)
    assert not is_decided([*ab], 4)


@bar(5_000)
@given(st.data(), st.integers(1, 6))
def test_rounds_of_votes_save_what_asking_one_by_one_would_and_change_nothing(data: st.DataObject, k: int) -> None:
    """Against the votes as they would have come in: the same preferred response, and not one vote more than needed."""
    certain = st.sampled_from([_sure(0.0), _sure(1.0), _sure(0.01), _sure(0.99)])
    votes = []
    for order, number in vote_slots(k):
        reading = data.draw(st.one_of(certain, certain, READINGS, st.none()))
        votes.append(a_vote(order, number, "invalid" if reading is None else "a", reading))
    rounds = []
    while number := votes_worth_asking(votes[: sum(rounds)], k):
        rounds.append(number)
    asked = sum(rounds)
    assert asked == next(n for n in range(1, 2 * k + 1) if is_decided(votes[:n], k))
    if asked < 2 * k:
        assert combine_votes(votes[:asked], k).preferred == combine_votes(votes, k).preferred
        assert combine_votes(votes[:asked], k).preferred != "tie"


def test_orders_take_turns() -> None:
    assert list(vote_slots(2)) == [("ab", 0), ("ba", 0), ("ab", 1), ("ba", 1)]


@pytest.mark.parametrize("k", [1, 2, 5, 16, 64])
def test_the_first_round_is_one_vote_more_than_half(k: int) -> None:
    assert votes_worth_asking([], k) == k + 1


def test_forced_verdicts_are_flagged() -> None:
    votes = [a_vote("ab", 0, "a", _sure(0.9)), a_vote("ba", 0, "a", _sure(0.2))]
    forced = [replace(vote, rationale=replace(vote.rationale, forced=True)) for vote in votes]
    assert combine_votes(votes, 1).flags == ()
    assert combine_votes(forced, 1).flags == (Flag("forced_verdict", 2, "rationale"),)
    refused = replace(forced[0], reading=None, rationale=replace(forced[0].rationale, vote=1, verdict="invalid"))
    assert combine_votes([*votes, refused], 2).flags == ()
