"""What gives way when a pair is longer than the model's window.

The published trainer cuts the token row at the right: over-long pairs lose the end of response B, the closing lines
and the cue, and keep their label. Here texts are cut before they are rendered, so the template is always whole:

1. both responses get the same budget, and lose their ends beyond it;
2. they give way down to half of what the texts may use together; after that the prompt gives up its middle (its
   longest turns first, all to the same length), because the task stands at one end of it or the other.

A text within its budget stays whole, also beside one that is cut. Nothing is cut in a pair that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.tokenization import ChatTokenizer
from service.types import Comparison, Message, Prompt, Response
from training.data.pairs import DataError

Encode = Callable[[Comparison], tuple[int, ...]]

MARK = "\n[...]\n"
"""Stands where the middle of a turn was."""

_RESPONSES_SHARE = 0.5
_TRIES = 16


@dataclass(frozen=True, slots=True)
class Fitted:
    """A comparison within the limit, and its token row; ``cut`` counts the tokens of text that were left out."""

    comparison: Comparison
    ids: tuple[int, ...]
    cut: int


@dataclass(frozen=True, slots=True)
class Budgets:
    """Most tokens each turn of the prompt, and each of the two responses, may have."""

    turn: int
    response: int


def budgets(turns: Sequence[int], first: int, second: int, room: int) -> Budgets:
    """Budgets for texts of these lengths (tokens) in ``room`` tokens."""
    for_responses = max(room - sum(turns), int(room * _RESPONSES_SHARE))
    response = _level((first, second), for_responses)
    used = min(first, response) + min(second, response)
    return Budgets(_level(turns, room - used), response)


def fit(chat: ChatTokenizer, encode: Encode, comparison: Comparison, max_tokens: int) -> Fitted:
    """The comparison as it is, or cut to the limit. ``encode`` renders it and returns its whole token row.

    Raises `DataError` when the template and the names of the turns alone leave no room.
    """
    ids = encode(comparison)
    if len(ids) <= max_tokens:
        return Fitted(comparison, ids, 0)
    *turns, first, second = whole = _lengths(chat, comparison)
    room = max_tokens - (len(ids) - sum(whole))
    for _ in range(_TRIES):  # tokens merge and split at a cut: what comes out is measured, not predicted
        if room < len(whole):
            break
        shorter = _cut(chat, comparison, budgets(turns, first, second, room))
        ids = encode(shorter)
        if len(ids) <= max_tokens:
            return Fitted(shorter, ids, sum(whole) - sum(_lengths(chat, shorter)))
        room -= len(ids) - max_tokens
    raise DataError(f"The template around the texts leaves no room for them in {max_tokens} tokens; raise the limit.")


def cut_end(chat: ChatTokenizer, text: str, tokens: int) -> str:
    """The beginning of a text, at most so many tokens of it; no character is split."""
    spans = chat.spans(text)
    if len(spans) <= tokens:
        return text
    kept = (text[: spans[keep - 1][1]] for keep in range(tokens, 0, -1))
    return next((part for part in kept if chat.count(part) <= tokens), "")


def cut_middle(chat: ChatTokenizer, text: str, tokens: int) -> str:
    """Beginning and end of a text around `MARK`, together at most so many tokens; the beginning alone of a few."""
    spans = chat.spans(text)
    if len(spans) <= tokens:
        return text
    for keep in range(tokens - chat.count(MARK), 1, -1):
        part = text[: spans[(keep + 1) // 2 - 1][1]] + MARK + text[spans[len(spans) - keep // 2][0] :]
        if chat.count(part) <= tokens:
            return part
    return cut_end(chat, text, tokens)


def _cut(chat: ChatTokenizer, comparison: Comparison, most: Budgets) -> Comparison:
    turns = (Message(m.role, cut_middle(chat, m.content, most.turn)) for m in comparison.prompt.messages)
    first, second = (cut_end(chat, r.text, most.response) for r in (comparison.first, comparison.second))
    return Comparison(Prompt(tuple(turns)), Response(first), Response(second))


def _lengths(chat: ChatTokenizer, comparison: Comparison) -> list[int]:
    """Tokens of each turn of the prompt, then of both responses."""
    turns = [message.content for message in comparison.prompt.messages]
    return [chat.count(text) for text in (*turns, comparison.first.text, comparison.second.text)]


def _level(lengths: Sequence[int], room: int) -> int:
    """The highest common limit under which these lengths take no more than ``room`` together."""
    waiting, left = sorted(lengths), max(room, 0)
    while waiting:
        share = left // len(waiting)
        if waiting[0] > share:
            return share
        left -= waiting.pop(0)
    return max(lengths, default=0)
