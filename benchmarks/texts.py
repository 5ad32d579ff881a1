"""Texts with an exact number of tokens, and prompts cut into an exact layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Encode = Callable[[str, str, str], Sequence[int]]
"""Question, first and second response to the token ids of the whole prompt."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Token counts of a prompt's fixed parts: before the question and the first response (the question left out),
    between the responses, and after the second."""

    head: int
    between: int
    tail: int

    def total(self, question: int, response: int) -> int:
        return self.head + question + self.between + self.tail + 2 * response


def measure_layout(encode: Encode, count: Callable[[str], int], words: Sequence[str]) -> Layout:
    """Cut a prompt by what changes when one response changes. ``words`` must differ in their first and last token."""
    one, other = words[:2]
    ids, both = encode(one, one, one), encode(one, other, other)
    second = encode(one, one, other)
    before, tail = common_prefix(ids, both), common_prefix(ids[::-1], both[::-1])
    between = common_prefix(ids, second) - before - count(one)
    return Layout(before - count(one), between, tail)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def text_of(tokens: int, count: Callable[[str], int], words: Sequence[str], random: Random) -> str:
    """Random words that are exactly ``tokens`` tokens together. Raises `ValueError` when the words cannot make it."""
    if tokens < 1:
        raise ValueError(f"A text of {tokens} tokens cannot be made.")
    text = ""
    while (room := tokens - count(text)) > 0:
        longer = (f"{text} {word}".strip() for word in random.sample(words, len(words)))
        fitting = (grown for grown in longer if count(grown) <= tokens and tokens - count(grown) < room)
        text = next(fitting, "")
        if not text:
            raise ValueError(f"No text of exactly {tokens} tokens can be made of these words; give shorter ones.")
    return text
