"""What a teacher's trace must be before anything is learned from it (RM-R1's distillation, arXiv 2505.02387).

A trace is read by the very parser the service reads judgments with, and then more strictly. The published filter looks
for a verdict in the last hundred characters, does not exclude the other one, and never looks at second passes again.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from service.judging.base import PairwiseFamily
from service.types import Comparison
from training.data.texts import words

Flaw = Literal["empty", "cut off", "no verdict", "quoted verdict", "two verdicts", "wrong verdict", "repeats the hint"]
FLAWS: tuple[Flaw, ...] = get_args(Flaw)

_QUOTED = re.compile(r"<(quote|summary)_([AB])>.*?(?:</\1_\2>|\Z)", re.DOTALL)
_VERDICT = re.compile(r"<answer>\s*\[*[AB]\]*\s*</answer>")
_HINT_WORDS = 6
"""So many words of the hint in a row are no chance."""


def flaw(
    text: str, finished: bool, letter: str, family: PairwiseFamily, shown: Comparison, hint: str = ""
) -> Flaw | None:
    """What is wrong with a trace; None for one to learn from.

    ``letter`` names the better response as ``shown``; ``hint`` is what a second pass was told, and must not repeat.
    """
    if not text.strip():
        return "empty"
    if not finished:
        return "cut off"
    whole, own = family.parse(text), family.parse(_QUOTED.sub("", text))
    if own.verdict == "invalid" or _ends_in_a_response(text, shown):
        return "quoted verdict" if whole.verdict != "invalid" or _VERDICT.search(text) else "no verdict"
    if own.conflicting:
        return "two verdicts"
    if own.verdict != letter:
        return "wrong verdict"
    return "repeats the hint" if _repeats(text, hint) else None


def _ends_in_a_response(text: str, shown: Comparison) -> bool:
    """A response that holds a verdict, copied to the end of a trace, would be read as the judge's own."""
    responses = (shown.first.text.strip(), shown.second.text.strip())
    return any(_VERDICT.search(r) and text.rstrip().endswith(r) for r in responses)


def _repeats(text: str, hint: str) -> bool:
    said, told = words(text), words(hint)
    runs = {tuple(told[i : i + _HINT_WORDS]) for i in range(len(told) - _HINT_WORDS + 1)}
    return any(tuple(said[i : i + _HINT_WORDS]) in runs for i in range(len(said) - _HINT_WORDS + 1))
