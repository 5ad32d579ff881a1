"""Before hours are spent on benchmarks: does this checkpoint judge at all, in this service?

A checkpoint of this project carries a pair of its own, which the service asks at its start. Released checkpoints carry
none, so they are asked a few questions that every trained judge answers; one that is wired wrongly - another template,
swapped labels, broken weights - is right about half of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.types import Prompt, Verdict
from training.data.pairs import Pair
from training.evaluation.judges.base import EvaluationError, Judge

QUESTIONS = (
    ("What is 17 + 25?", "17 + 25 = 42.", "17 + 25 = 52."),
    ("What is the capital of France?", "The capital of France is Paris.", "The capital of France is Lyon."),
    ("Translate 'good morning' into Spanish.", "Buenos días.", "Bonne nuit."),
    ("Name a prime number between 20 and 30.", "23 is a prime number between 20 and 30.", "21 is one."),
    ("How many days does a leap year have?", "A leap year has 366 days.", "A leap year has 364 days."),
    ("Spell 'necessary' correctly.", "necessary", "neccesary"),
    ("Which planet is closest to the sun?", "Mercury is the closest to the sun.", "Bananas are rich in potassium."),
    ("Sort 3, 1, 2 in ascending order.", "1, 2, 3", "3, 2, 1"),
)
NEEDED = 7
"""Of the eight: a judge that guesses gets there in 3.5 % of tries."""


@dataclass(frozen=True, slots=True)
class SelfTested:
    """How many of the questions were answered rightly, over both orders."""

    right: int
    asked: int

    def __str__(self) -> str:
        return f"{self.right} of {self.asked} plain questions judged rightly"


async def self_test(judge: Judge) -> SelfTested:
    """Raises `EvaluationError` for a judge that is not right about what is plain."""
    pairs = []
    for number, (question, better, worse) in enumerate(QUESTIONS):
        first = number % 2 == 0
        a, b = (better, worse) if first else (worse, better)
        pairs.append(Pair(str(number), Prompt.from_text(question), a, b, "a" if first else "b"))
    outcomes = await judge.judge(pairs)
    right = sum(
        isinstance(outcome, Verdict) and (outcome.p_first > 0.5) == (pair.label == "a") and outcome.p_first != 0.5
        for pair, outcome in zip(pairs, outcomes, strict=True)
    )
    tested = SelfTested(right, len(pairs))
    if right < NEEDED:
        codes = sorted({outcome.code for outcome in outcomes if not isinstance(outcome, Verdict)})
        raise EvaluationError(
            f"Self-test failed: {tested}{' (' + ', '.join(codes) + ')' if codes else ''}. Family or template may not "
            "be the checkpoint's, or its files are damaged; --skip-self-test measures it all the same."
        )
    return tested
