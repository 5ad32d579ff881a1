"""Demo pairs as token rows, worded by the judge families themselves.

Every prompt of a family starts with the same tokens (its instruction); `Encoder` keeps them once, as ``prefix``, and a
row holds only what follows: question, both responses, the cue - and, for the rationale family, the judgment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from service.judging.base import PairwiseFamily
from service.types import Comparison, Prompt, Response
from training.data.demo_tasks import DemoPair, rationale

_NAMES = ("A", "B")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison in one order, without the family's shared prefix.

    ``prompt_len`` tokens of ``ids`` are the prompt; the rest is the judgment (empty for direct labels).
    ``chosen`` is the half-open token range of the better response, with the line break that ends it; ``ends`` are the
    positions of the tokens that close response A and response B.
    """

    ids: tuple[int, ...]
    prompt_len: int
    label: int
    chosen: tuple[int, int]
    ends: tuple[int, int]


class Encoder:
    """One family with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, family: PairwiseFamily) -> None:
        self._tokenizer = tokenizer
        self._family = family
        samples = (self._prompt_ids("x", "x", "x"), self._prompt_ids("7", "x", "x"))
        self.prefix = _common_prefix(*samples)
        self.label_ids = tuple(self._single(letter) for letter in family.labels)
        self.verdict_ids = (self._single(" right"), self._single(" wrong"))
        word = "Answer" if family.reads == "label" else "Response"
        self._starts = tuple(self._single(f"[The Start of Assistant {name}'s {word}]") for name in _NAMES)
        self._ends = tuple(self._single(f"[The End of Assistant {name}'s {word}]") for name in _NAMES)
        self.delimiter_ids = (*self._starts, *self._ends)

    def row(self, pair: DemoPair, right_first: bool) -> Row:
        """The pair with the right response shown first or second."""
        first, second = (pair.right, pair.wrong) if right_first else (pair.wrong, pair.right)
        prompt = self._prompt_ids(pair.prompt, first, second)
        if prompt[: len(self.prefix)] != self.prefix:
            raise AssertionError("A prompt does not begin with its family's prefix tokens.")
        ids = prompt[len(self.prefix) :]
        judgment: Sequence[int] = ()
        if self._family.reads == "rationale":
            text = rationale(pair, right_first) + str(self._tokenizer.eos_token)
            judgment = self._tokenizer(text, add_special_tokens=False).input_ids
        label = 0 if right_first else 1
        ends = (ids.index(self._ends[0]), ids.index(self._ends[1]))
        chosen = (ids.index(self._starts[label]) + 2, ends[label])
        return Row((*ids, *judgment), len(ids), label, chosen, ends)

    def both_orders(self, pairs: Iterable[DemoPair]) -> list[Row]:
        """Two rows for each pair, right response first, then second."""
        return [self.row(pair, right_first) for pair in pairs for right_first in (True, False)]

    def alternating_orders(self, pairs: Iterable[DemoPair]) -> list[Row]:
        """One row for each pair; every other one shows the right response first: as many A as B."""
        return [self.row(pair, i % 2 == 0) for i, pair in enumerate(pairs)]

    def _prompt_ids(self, question: str, first: str, second: str) -> tuple[int, ...]:
        comparison = Comparison(Prompt.from_text(question), Response(first), Response(second))
        messages = [{"role": m.role, "content": m.content} for m in self._family.render(comparison).messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _single(self, text: str) -> int:
        """The id of a text that must be one token. Raises `ValueError` if it is not."""
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"{text!r} must be a single token of the demo tokenizer.")
        return int(ids[0])


def padded(rows: Sequence[Row], pad_id: int) -> list[list[int]]:
    """Rows right-padded to the longest."""
    longest = max(len(row.ids) for row in rows)
    return [[*row.ids, *([pad_id] * (longest - len(row.ids)))] for row in rows]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    length = next(i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)
    return tuple(first[:length])
