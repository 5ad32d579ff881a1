"""Rationales whose every token is a fact that can be checked: of the digit tasks, position by position.

    increment 3 1 4 > 4 2 5 . | 4 7 5 ! ?     4 ok ok   2 ok no   5 ok ok   A
    the prompt: task, digits, A, B, cue       for each position: the right digit, A's digit, B's; then the verdict

Given the prompt, each of these tokens has one true value, so a written rationale is checked token by token against the
true one, and what its verdict ought to be is read off the checks it states, true or not. That separates two failures
that accuracy mixes: a fact is false; the verdict does not follow from the facts stated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from training.studies.judges import ANSWER, BAR, CUE, LABEL_A, LABEL_B, PLAIN_ID, STYLED_ID, TASK_IDS, VOCABULARY
from training.studies.tasks import Booleans, Integers, PairSet, right_answers

Floats = npt.NDArray[np.float64]

GOOD, BAD, PROVE, PAD = range(VOCABULARY, VOCABULARY + 4)
WORDS = PAD + 1
"""Size of the vocabulary so far; `training.studies.reasoning.rubrics` adds its own words behind."""


@dataclass(frozen=True, slots=True)
class Cases:
    """``B`` pairs as displayed, with what is true of them. Token ids throughout."""

    prompt: Integers
    """[B, P]."""
    text: Integers
    """[B, T]: the true rationale, the right verdict, then `PAD`."""
    weights: Integers
    """[B, T]: what `GOOD` at a position speaks for: positive, A; negative, B; 0 where nothing is checked."""
    label: Integers
    """[B]: `LABEL_A` or `LABEL_B`, the truth."""

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Integers | Booleans | slice) -> Self:
        """These rows."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


def joined(parts: list[Cases]) -> Cases:
    """All rows, in order; every part has the same widths."""
    return Cases(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Cases)))


def displayed(pairs: PairSet, better_first: Booleans | bool, steps: int | None = None) -> Cases:
    """``pairs`` with the better response in place A or B, labelled by the truth.

    ``steps``: only so many tokens of the rationale (None: all 3 N), then the verdict.
    """
    truth = pairs.relabelled()
    first = np.broadcast_to(np.asarray(better_first), len(pairs))[:, None]
    a, b = np.where(first, truth.chosen, truth.rejected), np.where(first, truth.rejected, truth.chosen)
    length = pairs.prompt.shape[1]
    answers = right_answers(pairs.task, pairs.prompt)
    checks_a, checks_b = (np.where(shown[:, :length] == answers, GOOD, BAD) for shown in (a, b))
    rationale = np.stack([answers, checks_a, checks_b], axis=2).reshape(len(pairs), 3 * length)[:, :steps]
    label = np.where(first, LABEL_A, LABEL_B)
    weights = np.tile([0, 1, -1], length)[:steps]
    return Cases(
        prompt=_prompts(pairs, a, b),
        text=np.concatenate([rationale, label], axis=1),
        weights=np.tile(np.append(weights, 0), (len(pairs), 1)),
        label=label[:, 0],
    )


def both_orders(pairs: PairSet, steps: int | None = None) -> Cases:
    """Each pair displayed in both orders: rows [0, B) better first, [B, 2 B) better second."""
    return joined([displayed(pairs, True, steps), displayed(pairs, False, steps)])


def _prompts(pairs: PairSet, a: Integers, b: Integers) -> Integers:
    def column(token: int) -> Integers:
        return np.full((len(pairs), 1), token)

    def response(marked: Integers) -> Integers:
        mark = np.where(marked[:, -1:] == 1, STYLED_ID, PLAIN_ID)
        return np.concatenate([marked[:, :-1], mark], axis=1)

    task = pairs.task[:, None] + TASK_IDS
    return np.concatenate([task, pairs.prompt, column(ANSWER), response(a), column(BAR), response(b), column(CUE)], 1)


def verdicts(written: Integers) -> Integers:
    """[B]: the first label token of each text [B, T]; `PAD` where there is none, an invalid rationale."""
    is_label = (written == LABEL_A) | (written == LABEL_B)
    found = written[np.arange(len(written)), is_label.argmax(axis=1)]
    return np.where(is_label.any(axis=1), found, PAD)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found, one value a text [B]."""

    valid: Booleans
    """A verdict was written."""
    right: Booleans
    """It is the right one."""
    tokens: Floats
    """Share of the true rationale's tokens that stand where they should."""
    true: Booleans
    """All of them do."""
    follows: Booleans
    """The verdict is what the checks that were written, true or not, add up to; a tie adds up to nothing."""

    def means(self) -> dict[str, float]:
        """Shares of texts. ``follows`` and ``unfounded`` are shares of valid and of right ones (0 where none is)."""
        return {
            "accuracy": float(self.right.mean()),
            "invalid": float(1 - self.valid.mean()),
            "tokens": float(self.tokens.mean()),
            "true": float(self.true.mean()),
            "follows": float(self.follows.sum() / max(1, self.valid.sum())),
            "unfounded": float((self.right & ~self.true).sum() / max(1, self.right.sum())),
        }


def check(cases: Cases, written: Integers) -> Findings:
    """Check texts [B, T] written for ``cases``, each against the truth and against itself."""
    verdict = verdicts(written)
    valid = verdict != PAD
    stated = (cases.text != PAD) & (cases.text != LABEL_A) & (cases.text != LABEL_B)
    same = (written == cases.text) & stated
    count = stated.sum(axis=1)
    balance = (cases.weights * (written == GOOD)).sum(axis=1)
    implied = np.select([balance > 0, balance < 0], [LABEL_A, LABEL_B], default=PAD)
    return Findings(
        valid=valid,
        right=verdict == cases.label,
        tokens=np.where(count == 0, 1.0, same.sum(axis=1) / np.maximum(1, count)),
        true=same.sum(axis=1) == count,
        follows=valid & (verdict == implied),
    )
