"""The checker finds every statement of the form that judges are taught, and each planted falsehood."""

from __future__ import annotations

from random import Random

import pytest

from service.judging import gram_r2
from training.data.demo_tasks import ALL_TASKS, DemoPair, draw, rationale
from training.evaluation.facts import Checked, Faithfulness, check

PAIR = DemoPair("capitals", "What is the capital of France?", "It is **Paris**.", "Rome", "Paris", "Rome")


def checked(feedback: str, comparison: str, conclusion: str, right_first: bool = True) -> Checked:
    parsed = gram_r2.FAMILY.parse(gram_r2.write(feedback, comparison, conclusion, "A"))
    return check(parsed.sections, PAIR, right_first)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_what_judges_are_taught_is_true_and_leads_to_its_verdict(task: str) -> None:
    random = Random(task)
    for number in range(40):
        pair, right_first = draw(task, random, from_held_out=bool(number % 2)), bool(number % 3)
        parsed = gram_r2.FAMILY.parse(rationale(pair, right_first))
        found = check(parsed.sections, pair, right_first)
        assert len(found.statements) == 6
        assert found.true == 6
        assert found.implied == parsed.verdict == ("A" if right_first else "B")


GOOD = "Response A says Paris. Response B says Rome. The right answer is Paris."


@pytest.mark.parametrize(
    ("feedback", "comparison", "conclusion", "true", "implied"),
    [
        (GOOD, "Response A is right, Response B is wrong.", "Response A is better.", 6, "A"),
        (GOOD.replace("A says Paris", "A says Lyon"), "Response A is right.", "Response A is better.", 4, None),
        (GOOD.replace("is Paris", "is Rome"), "Response B is right.", "Response B is better.", 2, "B"),
        (GOOD.replace("says Rome", "says Paris"), "", "", 2, None),
        ("A is Paris.", "Both are right.", "I like A.", 0, None),
    ],
)
def test_planted_falsehoods(feedback: str, comparison: str, conclusion: str, true: int, implied: str | None) -> None:
    found = checked(feedback, comparison, conclusion)
    assert (found.true, found.implied) == (true, implied)


def test_the_display_order_decides_who_is_a() -> None:
    assert checked(GOOD, "", "", right_first=True).true == 3
    assert checked(GOOD, "", "", right_first=False).true == 1


def test_the_sum_over_judgments() -> None:
    fine = checked(GOOD, "Response A is right, Response B is wrong.", "Response A is better.")
    false = checked(GOOD.replace("is Paris", "is Rome"), "", "")
    silent = checked("?", "", "")
    total = Faithfulness.of([(fine, "A"), (fine, "B"), (false, None), (silent, "A")])
    assert (total.judgments, total.silent, total.statements, total.true, total.all_true) == (4, 1, 15, 14, 2)
    assert (total.implying, total.follow) == (2, 1)
    assert total.by_kind["right answer"] == (2, 3)
