"""Preference pairs whose better response can be computed: digit tasks with counted errors, style marks, flipped labels.

A prompt is a task's name and N digits; the answer is a function of the digits. A response is the answer with some
positions wrong, and a closing mark, plain or styled; the better response has fewer wrong positions. For example

    reverse 3 1 4 1  >  1 4 1 3 .     better: no position wrong, plain
    reverse 3 1 4 1  >  1 7 1 0 !     worse: two positions wrong, styled

What a study turns: the share ``flips`` of labels that name the wrong response; ``style``, the probability that the
better response is the styled one (0.5: style says nothing; training at 0.7 and testing at 0.3 makes it a trap, as
RM-Bench's hard pairs do, arXiv 2410.16184); the tasks; the number of digits. Prompts for tests never occur in training
data: which side a row of digits is on is a function of the digits alone, the same for every task and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from service.types import Prompt
from training.data.pairs import Pair

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

DIGITS = 10
TEST_SHARE = 5
"""One row of digits in this many is kept for tests."""
PLAIN, STYLED = ".", "!"

TASKS: dict[str, Callable[[Integers], Integers]] = {
    "increment": lambda x: (x + 1) % DIGITS,
    "complement": lambda x: DIGITS - 1 - x,
    "reverse": lambda x: x[:, ::-1],
    "rotate": lambda x: np.roll(x, 1, axis=1),
    "sort": lambda x: np.sort(x, axis=1),
    "swap": lambda x: np.roll(x, x.shape[1] // 2, axis=1),
}
"""Right answers [rows, N] of prompts [rows, N]. ``swap`` exchanges the halves (of an odd N, rotates by the smaller)."""
NAMES = tuple(TASKS)


@dataclass(frozen=True, slots=True)
class Source:
    """Where pairs are drawn from."""

    tasks: tuple[str, ...]
    length: int = 4
    style: float = 0.5
    """P(the better response is the styled one)."""
    flips: float = 0.0
    """P(the label names the worse response)."""
    test: bool = False
    """Prompts that no training set holds."""


@dataclass(frozen=True, slots=True)
class PairSet:
    """``B`` pairs as arrays; N digits a prompt. "Better" is the truth, "chosen" is what the label says."""

    task: Integers
    """[B], positions in `NAMES`."""
    prompt: Integers
    """[B, N] digits."""
    better: Integers
    worse: Integers
    """[B, N] digits of the two responses."""
    better_styled: Booleans
    """[B]; the other response is then plain, and the other way round."""
    flipped: Booleans
    """[B]: the label is wrong."""

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: Integers | slice) -> Self:
        """These rows, as views or copies of the arrays."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def relabelled(self) -> Self:
        """The same pairs with every label right: tests ask for the truth."""
        return replace(self, flipped=np.zeros_like(self.flipped))

    @property
    def chosen(self) -> Integers:
        """[B, N + 1] digits and, last, 1 for styled: the response the label prefers."""
        return np.where(self.flipped[:, None], self._worse_marked, self._better_marked)

    @property
    def rejected(self) -> Integers:
        """[B, N + 1], as `chosen`."""
        return np.where(self.flipped[:, None], self._better_marked, self._worse_marked)

    @property
    def gap(self) -> Integers:
        """[B]: how many more positions the worse response has wrong, at least 1."""
        answers = right_answers(self.task, self.prompt)
        gap: Integers = (self.worse != answers).sum(1) - (self.better != answers).sum(1)
        return gap

    @property
    def _better_marked(self) -> Integers:
        return np.concatenate([self.better, self.better_styled[:, None]], axis=1)

    @property
    def _worse_marked(self) -> Integers:
        return np.concatenate([self.worse, ~self.better_styled[:, None]], axis=1)

    def with_foreign_prompts(self, rng: np.random.Generator) -> Self:
        """The same responses under other rows' tasks and digits: all statistics of the text, none of its meaning."""
        shuffled = rng.permutation(len(self))
        return replace(self, task=self.task[shuffled], prompt=self.prompt[shuffled])

    def as_pairs(self, rng: np.random.Generator, source: str = "digits") -> Iterator[Pair]:
        """The pairs as text, in random order of their responses, for the stages of `training.stages`."""
        chosen_first = rng.random(len(self)) < 0.5
        for row, (chosen, rejected) in enumerate(zip(self.chosen, self.rejected, strict=True)):
            first, second = (chosen, rejected) if chosen_first[row] else (rejected, chosen)
            task = NAMES[self.task[row]]
            yield Pair(
                id=f"{source}/{row}",
                prompt=Prompt.from_text(f"{task} {_spoken(self.prompt[row])}"),
                response_a=_response(first),
                response_b=_response(second),
                label="a" if chosen_first[row] else "b",
                source=source,
                margin=float(self.gap[row]),
                subset=task,
            )


def draw(source: Source, count: int, rng: np.random.Generator) -> PairSet:
    """``count`` pairs. Better responses have no or one wrong position, worse ones one to N more than that.

    Raises `ValueError` for an unknown task, or fewer than two digits (where nothing could be worse than one error).
    """
    if unknown := set(source.tasks) - set(NAMES):
        raise ValueError(f"There is no task {sorted(unknown)[0]}; there are {', '.join(NAMES)}.")
    if source.length < 2:
        raise ValueError("Prompts need at least two digits.")
    task = rng.choice([NAMES.index(name) for name in source.tasks], count)
    prompt = draw_prompts(count, source.length, source.test, rng)
    answers = right_answers(task, prompt)
    fewer = rng.integers(0, 2, count)
    more = fewer + 1 + rng.integers(0, source.length - fewer)
    return PairSet(
        task=task,
        prompt=prompt,
        better=with_errors(answers, fewer, rng),
        worse=with_errors(answers, more, rng),
        better_styled=rng.random(count) < source.style,
        flipped=rng.random(count) < source.flips,
    )


def draw_prompts(count: int, length: int, test: bool, rng: np.random.Generator) -> Integers:
    """[count, length] random digits from one side of the split."""
    found: list[Integers] = []
    while (missing := count - sum(map(len, found))) > 0:
        rows = rng.integers(0, DIGITS, (missing * (TEST_SHARE + 1), length))
        found.append(rows[for_tests(rows) == test][:missing])
    return np.concatenate(found) if found else np.zeros((0, length), np.int64)


def for_tests(prompts: Integers) -> Booleans:
    """[rows]: whether these digits [rows, N] are kept for tests. A multiplicative hash of the digits."""
    mixed = np.zeros(len(prompts), np.uint64)
    for column in prompts.T:
        mixed = (mixed + column.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    held: Booleans = mixed % np.uint64(TEST_SHARE) == 0
    return held


def right_answers(task: Integers, prompt: Integers) -> Integers:
    """[rows, N] answers of prompts [rows, N], each by its own task [rows]."""
    answers = np.empty_like(prompt)
    for number, name in enumerate(NAMES):
        rows = task == number
        answers[rows] = TASKS[name](prompt[rows])
    return answers


def with_errors(answers: Integers, errors: Integers, rng: np.random.Generator) -> Integers:
    """``answers`` [rows, N] with exactly ``errors`` [rows] random positions changed to another digit."""
    rank = rng.random(answers.shape).argsort(axis=1).argsort(axis=1)
    other = (answers + rng.integers(1, DIGITS, answers.shape)) % DIGITS
    return np.where(rank < errors[:, None], other, answers)


def _spoken(digits: Sequence[int] | Integers) -> str:
    return " ".join(map(str, digits))


def _response(marked: Integers) -> str:
    """Digits and mark: "1 4 1 3!"."""
    return _spoken(marked[:-1]) + (STYLED if marked[-1] else PLAIN)
