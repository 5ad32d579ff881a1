"""What judgments state is checked against the pair as each display order showed it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.heldout import _outcome, _report
from benchmarks.questions import draw_pairs
from service.judging import gram_r2
from training.data.demo_tasks import rationale

PAIRS = draw_pairs(6, 1)


def reply(number: int, votes: int = 1, lie: bool = False) -> dict[str, Any]:
    """As the service answers for a judge that writes what it was taught; with ``lie``, the opposite."""
    right_is_a, rationales = number % 2 == 0, []
    for order in ("ab", "ba"):
        right_first = right_is_a == (order == "ab")
        parsed = gram_r2.FAMILY.parse(rationale(PAIRS[number], right_first != lie))
        verdict = "a" if right_is_a != lie else "b"
        rationales += [
            {"order": order, "vote": n, "verdict": verdict, "sections": parsed.sections} for n in range(votes)
        ]
    p_first = 0.9 if right_is_a != lie else 0.1
    return {"status": "ok", "p_first": p_first, "consistent": True, "label_mass": 1.0, "rationales": rationales}


def test_true_statements_are_true_in_both_orders() -> None:
    for number, pair in enumerate(PAIRS):
        outcome = _outcome(number, pair, reply(number))
        assert outcome.correct
        assert [(found.true, len(found.statements), found.implied == letter) for found, letter in outcome.checked] == [
            (6, 6, True),
            (6, 6, True),
        ]


def test_a_judge_that_lies_is_found_out() -> None:
    outcome = _outcome(1, PAIRS[1], reply(1, lie=True))
    assert not outcome.correct
    assert all(found.true < len(found.statements) for found, _ in outcome.checked)


def test_what_was_written_for_no_verdict_still_counts() -> None:
    shown = [one | {"verdict": "invalid"} for one in reply(0)["rationales"]]
    outcome = _outcome(0, PAIRS[0], {"status": "failed", "rationales": shown})
    assert (outcome.correct, outcome.parsed, outcome.written) == (False, 0, 2)
    assert [(found.true, letter) for found, letter in outcome.checked] == [(6, None), (6, None)]


def test_the_report_sets_votes_against_greedy_on_the_same_pairs() -> None:
    compared = [_outcome(i, pair, reply(i) | {"rationales": []}) for i, pair in enumerate(PAIRS)]
    greedy = [_outcome(i, pair, reply(i, lie=i == 0)) for i, pair in enumerate(PAIRS)]
    voted = [_outcome(i, pair, reply(i, votes=8)) for i, pair in enumerate(PAIRS[:4])]
    made = _report(compared, greedy, voted, {"length": 0.5}, Namespace(seed=1, votes=8))
    bars = {bar.what: bar.measured for bar in made.bars}
    assert bars["/rationale accuracy"] == 5 / 6
    assert bars["/rationale stated facts that are true"] < 1
    assert bars["votes@8 minus greedy, high end of the 95 % interval"] > 0
    assert "12 greedy judgments state 72 facts" in made.notes[1]
    assert "difference +0.2500" in made.notes[2]


def test_a_judge_that_only_writes_is_reported_without_compare() -> None:
    greedy = [_outcome(i, pair, reply(i)) for i, pair in enumerate(PAIRS)]
    made = _report([], greedy, [], {"length": 0.5}, Namespace(seed=1, votes=8))
    assert [bar.what for bar in made.bars] == [
        "length-only baseline accuracy",
        "/rationale parsed",
        "/rationale accuracy",
        "/rationale stated facts that are true",
    ]
    assert made.rows[-1] == ["all", "", "", "0", "1.0000", "0.6097 - 1.0000", "6"]
