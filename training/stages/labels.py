"""Pairs as examples of stage 2: the label at the cue and, where a recipe asks for them, two helper terms.

The helpers look inside the prompt. **verdict**: where each response's closing line ends, is it right or wrong? A label
is one bit that says which of two answers fits; these are the two bits it is made of, and a model trained from nothing
learns from them much earlier. **chosen**: the better response as text, given the question.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.judging.base import PairwiseFamily
from service.tokenization import ChatTokenizer
from service.types import Comparison, Message, Prompt, Response
from training.configs import PreferenceObjective
from training.data.pairs import DataError, Pair
from training.data.rows import LabelRows
from training.stages.examples import Example, Read, Span, label_example

VERDICTS = (" right", " wrong")


@dataclass(frozen=True, slots=True)
class Places:
    """Token positions inside a rendered prompt: both responses (half-open), and the tokens that close them."""

    responses: tuple[tuple[int, int], tuple[int, int]]
    ends: tuple[int, int]


class Helpers:
    """The helper terms of a family's prompts."""

    def __init__(self, chat: ChatTokenizer, family: PairwiseFamily, objective: PreferenceObjective) -> None:
        """Raises `DataError` when the verdicts are not one token each."""
        self._chat, self._family = chat, family
        self._chosen, self._verdict = objective.chosen_weight > 0, objective.verdict_weight > 0
        self.verdict_ids = verdict_ids(chat) if self._verdict else (0, 0)

    @property
    def wanted(self) -> bool:
        return self._chosen or self._verdict

    def of(self, comparison: Comparison, ids: tuple[int, ...], label: int) -> tuple[tuple[Read, ...], tuple[Span, ...]]:
        """Reads and spans of a prompt whose tokens begin ``ids``. Raises `DataError` where they cannot be placed."""
        if not self.wanted:
            return (), ()
        (content,) = self._family.render(comparison).messages
        places = places_in(self._chat, content, ids)
        reads = tuple(Read("verdict", at, int(i != label)) for i, at in enumerate(places.ends))
        start, end = places.responses[label]
        return reads if self._verdict else (), (Span("chosen", start, end),) if self._chosen else ()


class LabelExamples:
    """Builds examples of one family."""

    def __init__(
        self, chat: ChatTokenizer, family: PairwiseFamily, objective: PreferenceObjective, max_tokens: int
    ) -> None:
        self.rows = LabelRows(chat, family, max_tokens)
        self.helpers = Helpers(chat, family, objective)

    def __call__(self, pair: Pair, swapped: bool) -> Example:
        """Raises `DataError` naming the pair."""
        comparison, row = self.rows.fitted_row(pair, swapped)
        reads, spans = self.helpers.of(comparison, row.ids, row.label)
        return Example(row.ids, (*label_example(row).reads, *reads), spans, cut=row.cut)


def verdict_ids(chat: ChatTokenizer) -> tuple[int, int]:
    """The single tokens of " right" and " wrong". Raises `DataError`."""
    ids = [chat.encode_text(word) for word in VERDICTS]
    if any(len(tokens) != 1 for tokens in ids):
        raise DataError("The tokenizer has no single tokens for ' right' and ' wrong'; set verdict_weight to 0.")
    return ids[0][0], ids[1][0]


def places_in(chat: ChatTokenizer, content: Message, ids: tuple[int, ...]) -> Places:
    """Where the responses of a filled-in prompt are among its tokens. Raises `DataError` if that cannot be told."""
    before_a, a, between, b, after = "".join(content.parts[:-4]), *content.parts[-4:]
    text, first = _piece(chat, content.content.strip(), ids)
    base = text.index(content.content.strip()) - (len(content.content) - len(content.content.lstrip()))
    spans = chat.spans(text)
    a_at = base + len(before_a)
    b_at = a_at + len(a) + len(between)

    def tokens(start: int, end: int) -> tuple[int, int]:
        """The tokens of a range of characters, the line break behind it included."""
        inside = [i for i, (left, right) in enumerate(spans) if right > start and left <= end]
        return first + inside[0], first + inside[-1] + 1

    def closing(end: int, tail: str) -> int:
        last = end + tail.index("]")
        return first + next(i for i, (left, right) in enumerate(spans) if left <= last < right)

    return Places(
        (tokens(a_at, a_at + len(a)), tokens(b_at, b_at + len(b))),
        (closing(a_at + len(a), between), closing(b_at + len(b), after)),
    )


def common_prefix(chat: ChatTokenizer, family: PairwiseFamily) -> tuple[int, ...]:
    """The tokens every prompt of a family begins with: its instruction."""
    prompts = [
        chat.encode(family.render(Comparison(Prompt.from_text(word), Response("x"), Response("x"))))
        for word in ("x", "7", "[")
    ]
    shortest = min(map(len, prompts))
    same = next(i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1)
    return prompts[0][:same]


def _piece(chat: ChatTokenizer, content: str, ids: tuple[int, ...]) -> tuple[str, int]:
    """The text between two control tokens that holds the content, and the place of its first token."""
    start = 0
    for i, token in enumerate((*ids, None)):
        if token is not None and token not in chat.control_ids:
            continue
        text = chat.decode(ids[start:i])
        if content in text and len(chat.spans(text)) == i - start:
            return text, start
        start = i + 1
    raise DataError("This tokenizer does not show where a response stands; set chosen_weight and verdict_weight to 0.")
