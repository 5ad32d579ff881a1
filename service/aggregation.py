"""From two display orders, or k votes of each, to one verdict: pure functions.

Comparing (b, a) must give exactly one minus comparing (a, b). Three rules make it so, bit for bit: a pair is judged in
one canonical order and mirrored for the caller; the winner's probability w >= 0.5 is computed and the loser gets 1 - w;
and every probability that may be complemented is first put where ``1 - (1 - p) == p`` holds (see `_complementable`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from service.errors import InternalError, InvalidVerdict, NonFiniteScore
from service.types import Comparison, Flag, Label, Order, OrderReading, Rationale, Verdict, Votes, Where

Side = Literal["a", "b", "tie"]
Slot = tuple[Order, int]
"""Which vote: display order (of the canonical pair) and number."""

ORDERS: tuple[Order, Order] = ("ab", "ba")

_MIRRORED_ORDER: dict[Order, Order] = {"ab": "ba", "ba": "ab"}
_MIRRORED_LABEL: dict[Label, Label] = {"a": "b", "b": "a", "invalid": "invalid"}
_MIRRORED_WHERE: dict[Where, Where] = {"a": "b", "b": "a"}


@dataclass(frozen=True, slots=True)
class VoteReading:
    """One written judgment: its text, the one-token read after it (None for an invalid text), and how many earlier
    verdict tags of the text named the other response."""

    rationale: Rationale
    reading: OrderReading | None
    conflicting: int = 0


def canonical(comparison: Comparison) -> tuple[Comparison, bool]:
    """The pair with its responses in text order (by code point), and whether that swapped them."""
    if comparison.second.text < comparison.first.text:
        return comparison.swap(), True
    return comparison, False


def combine(ab: OrderReading, ba: OrderReading) -> Verdict:
    """The verdict of both orders: `ab` read with a shown first, `ba` with b shown first.

    Probabilities and log-odds (nats) are averaged over the orders, which cancels a constant position bias; both means
    favour the same side. `combine(ba, ab)` is exactly `mirror(combine(ab, ba))`.
    Raises `NonFiniteScore` for anything not finite.
    """
    for reading in (ab, ba):
        _check_finite(reading)
    p_ab, p_ba = _complementable(ab.p_shown_first), _complementable(ba.p_shown_first)
    lead = (p_ab - p_ba) / 2.0  # P(a better) - 1/2, averaged over the orders
    winner = 0.5 + abs(lead)
    masses = [mass for mass in (ab.label_mass, ba.label_mass) if mass is not None]
    return Verdict(
        p_first=winner if lead > 0.0 else 1.0 - winner,
        margin=ab.log_odds / 2.0 - ba.log_odds / 2.0,
        p_ab=p_ab,
        p_ba=p_ba,
        consistent=_favoured(p_ab) == _favoured(1.0 - p_ba),
        label_mass=min(masses) if len(masses) == 2 else None,
    )


def identical() -> Verdict:
    """The verdict on byte-identical responses: a tie by definition, so no engine is asked and no label read."""
    return Verdict(p_first=0.5, margin=0.0, p_ab=0.5, p_ba=0.5, consistent=True, label_mass=None)


def mirror(verdict: Verdict) -> Verdict:
    """The same verdict for the caller who named the responses the other way round; an exact complement.

    Written judgments keep the ab-first order of `combine_votes` under their new names. Mirroring twice changes nothing.
    """
    votes = verdict.votes
    return replace(
        verdict,
        p_first=1.0 - verdict.p_first,
        margin=0.0 - verdict.margin,
        p_ab=verdict.p_ba,
        p_ba=verdict.p_ab,
        votes=None if votes is None else replace(votes, a=votes.b, b=votes.a),
        flags=tuple(_mirror_flag(flag) for flag in verdict.flags),
        rationales=mirror_rationales(verdict.rationales),
    )


def mirror_rationales(rationales: Iterable[Rationale]) -> tuple[Rationale, ...]:
    """Written judgments for the caller who named the responses the other way round."""
    return _sorted(_mirror_rationale(rationale) for rationale in rationales)


def combine_votes(readings: Sequence[VoteReading], votes_per_order: int) -> Verdict:
    """The verdict of up to k = `votes_per_order` written judgments of each order; those not asked for count as skipped.

    An order's probability (log-odds, label mass) is the mean over its valid votes, so that an invalid vote weighs
    nothing rather than one half. Conflicting tags inside a text become the flag ``multiple_verdicts``, verdicts that
    were asked for at the token limit the flag ``forced_verdict``.
    Raises `InvalidVerdict` when an order has no valid vote, `NonFiniteScore` for anything not finite.
    """
    rationales = _sorted(_with_probability(reading) for reading in readings)
    verdict = combine(_mean(readings, "ab", rationales), _mean(readings, "ba", rationales))
    labels = [reading.rationale.verdict for reading in readings]
    skipped = 2 * votes_per_order - len(labels)
    if skipped < 0:
        raise InternalError("More votes were read than asked for; report this with the request id.")
    conflicting = sum(reading.conflicting for reading in readings)
    forced = sum(reading.rationale.forced and reading.rationale.verdict != "invalid" for reading in readings)
    found = (Flag("multiple_verdicts", conflicting, "rationale"), Flag("forced_verdict", forced, "rationale"))
    return replace(
        verdict,
        votes=Votes(labels.count("a"), labels.count("b"), labels.count("invalid"), skipped),
        flags=tuple(flag for flag in found if flag.count),
        rationales=rationales,
    )


def is_decided(readings: Sequence[VoteReading], votes_per_order: int) -> bool:
    """Whether the votes still to come cannot change which response is preferred, whatever they say.

    Each remaining vote may read any probability in [0, 1] or be invalid. An order without a valid vote decides nothing
    while votes remain, for it may yet fail the pair.
    """
    return _tally(readings, "ab", votes_per_order).settles(_tally(readings, "ba", votes_per_order))


def vote_slots(votes_per_order: int) -> Iterator[Slot]:
    """Every vote in the order in which votes are asked for: the display orders take turns."""
    return ((order, vote) for vote in range(votes_per_order) for order in ORDERS)


def votes_worth_asking(readings: Sequence[VoteReading], votes_per_order: int) -> int:
    """How many more of `vote_slots` to ask for at once: the fewest that could decide, if they all agreed; 0 if decided.

    Asking for as many together costs no vote that asking one by one would have saved.
    """
    if is_decided(readings, votes_per_order):
        return 0
    slots = list(vote_slots(votes_per_order))[len(readings) :]
    start = [_tally(readings, order, votes_per_order) for order in ORDERS]
    needed = len(slots)
    for winner in ORDERS:
        tallies = dict(zip(ORDERS, start, strict=True))
        for n, (order, _) in enumerate(slots[:needed], 1):
            tallies[order] = tallies[order].plus(1.0 if order == winner else 0.0)
            if tallies["ab"].settles(tallies["ba"]):
                needed = n
                break
    return needed


@dataclass(frozen=True, slots=True)
class _Tally:
    """One order so far: the sum of P(shown first better) over ``valid`` votes, and how many are ``left``."""

    total: float
    valid: int
    left: int

    def plus(self, p: float) -> _Tally:
        """With one more valid vote."""
        return _Tally(self.total + p, self.valid + 1, self.left - 1)

    def range(self) -> tuple[float, float]:
        """Bounds of the order's mean once all its votes are in."""
        if not self.valid:
            return 0.0, 1.0
        count = self.valid + self.left
        return self.total / count, (self.total + self.left) / count

    def settles(self, other: _Tally) -> bool:
        """Do the two orders together leave only one response to be preferred?"""
        (low, high), (other_low, other_high) = self.range(), other.range()
        none_left = self.left + other.left <= 0
        return none_left or low > other_high + _ROUNDING or other_low > high + _ROUNDING


_ROUNDING = 1e-12
"""Slack for the rounding of means: stopping early must never be decided by it."""


def _tally(readings: Sequence[VoteReading], order: Order, votes_per_order: int) -> _Tally:
    valid = [r.p_shown_first for r in _valid(readings, order)]
    left = votes_per_order - sum(reading.rationale.order == order for reading in readings)
    return _Tally(math.fsum(valid), len(valid), left)


def _valid(readings: Sequence[VoteReading], order: Order) -> list[OrderReading]:
    """The reads of the order's valid votes. Raises `InternalError` when a valid text came without its read."""
    votes = [r for r in readings if r.rationale.order == order and r.rationale.verdict != "invalid"]
    reads = [vote.reading for vote in votes if vote.reading is not None]
    if len(reads) != len(votes):
        raise InternalError("A written verdict came without its probability; report this with the request id.")
    return reads


def _mean(readings: Sequence[VoteReading], order: Order, rationales: tuple[Rationale, ...]) -> OrderReading:
    reads = _valid(readings, order)
    if not reads:
        message = "No vote of one display order ended in a verdict; ask for more votes or a longer rationale."
        raise InvalidVerdict(message, rationales)
    for read in reads:
        _check_finite(read)
    masses = [read.label_mass for read in reads if read.label_mass is not None]
    return OrderReading(
        math.fsum(read.p_shown_first for read in reads) / len(reads),
        math.fsum(read.log_odds / len(reads) for read in reads),
        math.fsum(masses) / len(masses) if len(masses) == len(reads) else None,
    )


def _check_finite(reading: OrderReading) -> None:
    values = (reading.p_shown_first, reading.log_odds, 0.0 if reading.label_mass is None else reading.label_mass)
    if not all(math.isfinite(value) for value in values):
        raise NonFiniteScore("The model gave a probability that is not finite; check the weights and the dtype.")
    if not 0.0 <= reading.p_shown_first <= 1.0:
        raise InternalError("A probability lies outside [0, 1]; report this with the request id.")


def _complementable(p: float) -> float:
    """`p` moved by at most 2**-54, so that ``1 - (1 - p) == p``: below one half floats are finer than complements are.

    The margin keeps what tiny probabilities lose.
    """
    return p if p >= 0.5 else 1.0 - (1.0 - p)


def _favoured(p_a: float) -> Side:
    if p_a == 0.5:
        return "tie"
    return "a" if p_a > 0.5 else "b"


def _with_probability(reading: VoteReading) -> Rationale:
    """The rationale with its P(a better), complementable; None where nothing was read."""
    if reading.reading is None:
        return replace(reading.rationale, probability=None)
    p = _complementable(reading.reading.p_shown_first)
    return replace(reading.rationale, probability=p if reading.rationale.order == "ab" else 1.0 - p)


def _mirror_rationale(rationale: Rationale) -> Rationale:
    return replace(
        rationale,
        order=_MIRRORED_ORDER[rationale.order],
        verdict=_MIRRORED_LABEL[rationale.verdict],
        probability=None if rationale.probability is None else 1.0 - rationale.probability,
    )


def _mirror_flag(flag: Flag) -> Flag:
    return replace(flag, where=_MIRRORED_WHERE.get(flag.where, flag.where))


def _sorted(rationales: Iterable[Rationale]) -> tuple[Rationale, ...]:
    return tuple(sorted(rationales, key=lambda rationale: (rationale.order, rationale.vote)))
