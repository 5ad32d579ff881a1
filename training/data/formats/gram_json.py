"""The published GRAM code's own rows, instruction/input/output, read back into pairs.

Stage 1 has the question in ``instruction`` and both responses in ``output``; stage 2 has everything in ``instruction``
and the label in ``output``. Published rows vary in the white space around the bracket lines, so it is trimmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from service.judging import gram
from training.data.formats.base import Format, Read, Row

STAGE1_EXAMPLE = {
    "instruction": "[User Question]\nName a prime number.\n\n",
    "input": "",
    "output": (
        "[The Start of Assistant A's Answer]\n7 is prime.\n[The End of Assistant A's Answer]\n\n"
        "[The Start of Assistant B's Answer]\n9 is prime.\n[The End of Assistant B's Answer]"
    ),
}

STAGE2_EXAMPLE = {
    "instruction": (
        "Please act as an impartial judge ... if assistant B is better.\n\n"
        "[User Question]\nName a prime number.\n\n"
        "[The Start of Assistant A's Answer]\n7 is prime.\n[The End of Assistant A's Answer]\n\n"
        "[The Start of Assistant B's Answer]\n9 is prime.\n[The End of Assistant B's Answer]\n\n#Preferred: "
    ),
    "input": "",
    "output": "A",
}

_QUESTION, *_BRACKETS, _CUE = gram.FAMILY.delimiters
_A_START, _A_END, _B_START, _B_END = map(re.escape, _BRACKETS)
# The first end of A that B's start follows, and the last end of B: a response may quote a bracket line.
_ANSWERS = re.compile(rf"{_A_START}(.*?){_A_END}\s*{_B_START}(.*){_B_END}", re.DOTALL)


def read_stage1(row: Row) -> Iterator[Read]:
    """Unlabelled pairs. Rows whose responses cannot be told apart (a bracket line is missing) are dropped."""
    question = row.text("instruction").partition(_QUESTION)[2] or row.text("instruction")
    more = row.data.get("input") or ""
    answers = _answers(row.text("output"))
    if answers is None:
        yield row.dropped("the responses' bracket lines are incomplete")
        return
    yield row.pair("\n".join(part for part in (question.strip(), str(more).strip()) if part), *answers, None)


def read_stage2(row: Row) -> Iterator[Read]:
    """The label must be one of the family's two, on its own."""
    first, second = gram.FAMILY.labels
    label = row.choice("output", {first: "a", second: "b"})
    question, start, rest = row.text("instruction").partition(_QUESTION)[2].partition(_BRACKETS[0])
    answers = _answers(start + rest.rpartition(_CUE)[0]) if _CUE in rest else _answers(start + rest)
    if answers is None:
        yield row.dropped("the responses' bracket lines are incomplete")
        return
    yield row.pair(question.strip(), *answers, label)


def _answers(text: str) -> tuple[str, str] | None:
    found = _ANSWERS.search(text)
    return (found.group(1).strip(), found.group(2).strip()) if found else None


def _is_stage2(row: Mapping[str, Any]) -> bool:
    return _BRACKETS[0] in str(row["instruction"])


def _is_stage1(row: Mapping[str, Any]) -> bool:
    return _BRACKETS[0] in str(row["output"])


_COLUMNS = frozenset({"instruction", "output"})
STAGE1 = Format("gram_stage1", "GRAM's pre-training rows", _COLUMNS, STAGE1_EXAMPLE, read_stage1, _is_stage1)
STAGE2 = Format("gram_stage2", "GRAM's fine-tuning rows", _COLUMNS, STAGE2_EXAMPLE, read_stage2, _is_stage2)
