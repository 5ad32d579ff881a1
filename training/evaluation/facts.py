"""Is what a written judgment states true? For the demo tasks, whose answers are known, every sentence can be checked.

A judgment of `training.data.demo_tasks.rationale` states up to six things: what each response says, what is right,
which response is right and which wrong, and which is better. A judge may get the verdict right for a wrong reason; the
share of its statements that are true, and how often its verdict is the one that they imply, tell the two apart. Only
``training`` and ``benchmarks`` use this: a service cannot know what is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from training.data.demo_tasks import DemoPair

Letter = Literal["A", "B"]
Kind = Literal["said", "right answer", "comparison", "conclusion"]

_SAID = re.compile(
    r"Response A says (?P<a>.*?)\. Response B says (?P<b>.*?)\. The right answer is (?P<right>.*?)\.\s*", re.DOTALL
)
_COMPARED = re.compile(r"Response ([AB]) is (right|wrong)\b")
_CONCLUDED = re.compile(r"Response ([AB]) is better\b")


@dataclass(frozen=True, slots=True)
class Statement:
    """Something a judgment states of the pair, and whether it is so."""

    kind: Kind
    text: str
    true: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """A judgment's statements. ``implied`` is the verdict that its account of the answers leads to: the response that
    gives the right answer, where it says so of exactly one. A judgment in another form has no statements."""

    statements: tuple[Statement, ...]
    implied: Letter | None

    @property
    def true(self) -> int:
        return sum(statement.true for statement in self.statements)


def check(sections: Mapping[str, str], pair: DemoPair, right_first: bool) -> Checked:
    """The statements of a judgment's sections: feedback, comparison, conclusion (`service.judging.gram_r2`).

    ``right_first``: the right response was shown first, as Response A.
    """
    said = {"A": pair.right_said, "B": pair.wrong_said} if right_first else {"A": pair.wrong_said, "B": pair.right_said}
    better: Letter = "A" if right_first else "B"
    found: list[Statement] = []
    implied: Letter | None = None
    if match := _SAID.fullmatch(sections.get("feedback", "")):
        a, b, right = match["a"], match["b"], match["right"]
        found += [Statement("said", f"A: {a}", a == said["A"]), Statement("said", f"B: {b}", b == said["B"])]
        found.append(Statement("right answer", right, right == pair.right_said))
        if (a == right) != (b == right):
            implied = "A" if a == right else "B"
    for letter, which in _COMPARED.findall(sections.get("comparison", "")):
        found.append(Statement("comparison", f"{letter} is {which}", (letter == better) == (which == "right")))
    for letter in _CONCLUDED.findall(sections.get("conclusion", "")):
        found.append(Statement("conclusion", f"{letter} is better", letter == better))
    return Checked(tuple(found), implied)


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Over many judgments. ``silent`` ones stated nothing that can be checked, a failed or cut one among them;
    ``follow`` is how many of the ``implying`` ones ended in the verdict that their statements imply."""

    judgments: int
    silent: int
    statements: int
    true: int
    all_true: int
    implying: int
    follow: int
    by_kind: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, checked: Iterable[tuple[Checked, Letter | None]]) -> Faithfulness:
        """From judgments with their verdict letters (None: invalid)."""
        rows = list(checked)
        stated = [statement for one, _ in rows for statement in one.statements]
        kinds: dict[str, tuple[int, int]] = {statement.kind: (0, 0) for statement in stated}
        for statement in stated:
            true, total = kinds[statement.kind]
            kinds[statement.kind] = (true + statement.true, total + 1)
        implying = [(one.implied, verdict) for one, verdict in rows if one.implied and verdict]
        return cls(
            len(rows),
            sum(not one.statements for one, _ in rows),
            len(stated),
            sum(statement.true for statement in stated),
            sum(bool(one.statements) and one.true == len(one.statements) for one, _ in rows),
            len(implying),
            sum(implied == verdict for implied, verdict in implying),
            kinds,
        )
