"""Questions of the demo family: an endless stream to train on, and exams that training never asks.

An exam's answers are known, so a response is checked by no judge (`training.evaluation.best_of_n.demo.check`). Held out
are the exams' questions, word for word; the same fact in another wording may be trained on, as it is in the policy's
own supervised training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from training.data.demo_tasks import draw
from training.evaluation.best_of_n.demo import CHECKABLE, demo_prompts

EXAM_SEED = 2026
"""One for all runs, so that their figures are of the same questions."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and the bare right answers."""

    prompts: tuple[str, ...]
    answers: tuple[str, ...]


def exams(validation: int, test: int) -> tuple[Questions, Questions]:
    """So many questions to choose a checkpoint by, and so many to report; none is in both."""
    drawn = list(demo_prompts(validation + test, EXAM_SEED))
    return _questions(drawn[:validation]), _questions(drawn[validation:])


def training_prompts(seed: int, never: frozenset[str]) -> Iterator[str]:
    """Questions without end, the tasks drawn evenly, none of those in ``never``. The same for the same seed."""
    rng = Random(f"rlhf/{seed}")
    while True:
        prompt = draw(rng.choice(CHECKABLE), rng, from_held_out=False).prompt
        if prompt not in never:
            yield prompt


def _questions(drawn: list[tuple[str, str]]) -> Questions:
    return Questions(tuple(prompt for prompt, _ in drawn), tuple(answer for _, answer in drawn))
