"""Pairs as token rows: stage 1 (responses to be written), stage 2 (a label to be read), and single responses.

Every row is rendered by a judge family and tokenized by the service's own tokenizer, so training sees the ids that
serving sends: the empty think block of Qwen3 is there, control tokens typed in a text are text, and what is too long
is cut as `training.data.lengths` says.

    chat = ChatTokenizer(AutoTokenizer.from_pretrained("Qwen/Qwen3-1.7B"))
    rows = LabelRows(chat, gram.FAMILY, max_tokens=2048)
    row = rows.row(pair, swapped=shown_swapped(pair, seed=0))
    logits[len(row.ids) - 1, rows.label_ids]  # cross-entropy against row.label
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import ServiceError
from service.judging.base import PairwiseFamily, ScalarFamily
from service.tokenization import ChatTokenizer
from service.types import Comparison, Prompt, Response
from training.data import pretraining
from training.data.lengths import Fitted, cut_end, fit
from training.data.pairs import DataError, Pair, shown_swapped

__all__ = ["LabelRows", "PretrainRows", "RewardRow", "RewardRows", "Stage1Row", "Stage2Row", "shown_swapped"]

_SAMPLE = Comparison(Prompt.from_text("x"), Response("y"), Response("z"))


@dataclass(frozen=True, slots=True)
class Stage1Row:
    """``ids[completion_start:]`` is learned: both responses and the token that ends the turn. ``cut``: see `Fitted`."""

    ids: tuple[int, ...]
    completion_start: int
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Stage2Row:
    """A judge's prompt, whose last token is followed by the label: 0 if the response shown first is better, else 1."""

    ids: tuple[int, ...]
    label: int
    cut: int = 0


@dataclass(frozen=True, slots=True)
class RewardRow:
    """Two conversations for a reward head, the better and the worse response."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    cut: int = 0


class PretrainRows:
    """Stage 1: language modelling of two responses. Needs no labels."""

    def __init__(self, chat: ChatTokenizer, max_tokens: int) -> None:
        """Raises `DataError` when ``max_tokens`` cannot hold the bare format, or the template cannot carry it."""
        self._chat = chat
        self._max_tokens = max_tokens
        self._after_end = self._tokens_after_end()
        self._build(_SAMPLE)

    def row(self, pair: Pair, *, swapped: bool = False) -> Stage1Row:
        """Raises `DataError` naming the pair (a text that is not Unicode, too many turns)."""
        with _naming(pair):
            return self._build(_shown(pair, swapped))

    def _build(self, comparison: Comparison) -> Stage1Row:
        fitted = fit(self._chat, self._encode, comparison, self._max_tokens)
        opening = self._chat.encode(pretraining.opening(pretraining.render(fitted.comparison)))
        if fitted.ids[: len(opening)] != opening or len(opening) == len(fitted.ids):
            raise DataError("This chat template does not begin a reply as its generation prompt does; use another one.")
        return Stage1Row(fitted.ids, len(opening), fitted.cut)

    def _encode(self, comparison: Comparison) -> tuple[int, ...]:
        ids = self._chat.encode(pretraining.render(comparison))
        return ids[: len(ids) - self._after_end]

    def _tokens_after_end(self) -> int:
        """Templates put a line feed after the token that ends a turn; it is not learned, as it is never generated."""
        ids = self._chat.encode(pretraining.render(_SAMPLE))
        opening = self._chat.encode(pretraining.opening(pretraining.render(_SAMPLE)))
        after = next((i for i, token in enumerate(reversed(ids)) if token in self._chat.control_ids), 0)
        return after if after < len(ids) - len(opening) else 0


class LabelRows:
    """Stage 2: the family's prompt, and which of its two label tokens is right."""

    def __init__(self, chat: ChatTokenizer, family: PairwiseFamily, max_tokens: int) -> None:
        """Raises `DataError` for families that write a rationale, and when ``max_tokens`` cannot hold the bare prompt.

        Raises `service.errors.StartupError` when a label is not one token where the reply begins.
        """
        if family.reads != "label":
            raise DataError(f"Family {family.name} writes a rationale before its label; these rows hold none.")
        self.label_ids = chat.label_ids(family.render(_SAMPLE), family.verdict_opener, family.labels)
        self._chat = chat
        self._family = family
        self._max_tokens = max_tokens
        self._fit(_SAMPLE)

    def row(self, pair: Pair, *, swapped: bool = False) -> Stage2Row:
        """Raises `DataError` naming the pair (no label, a text that is not Unicode, too many turns)."""
        return self.fitted_row(pair, swapped)[1]

    def fitted_row(self, pair: Pair, swapped: bool) -> tuple[Comparison, Stage2Row]:
        """The row, and the comparison as it was cut for it. Raises as `row`."""
        with _naming(pair):
            fitted = self._fit(_shown(pair, swapped))
            return fitted.comparison, Stage2Row(fitted.ids, _label(pair) ^ swapped, fitted.cut)

    def both_orders(self, pair: Pair) -> tuple[Stage2Row, Stage2Row]:
        """The pair as it is and swapped: twice the rows, every position bias seen with both labels."""
        return self.row(pair), self.row(pair, swapped=True)

    def _fit(self, comparison: Comparison) -> Fitted:
        return fit(self._chat, lambda c: self._chat.encode(self._family.render(c)), comparison, self._max_tokens)


class RewardRows:
    """For a discriminative reward model: each response alone after its prompt, both cut to the same length."""

    def __init__(self, chat: ChatTokenizer, family: ScalarFamily, max_tokens: int) -> None:
        """Raises `DataError` when ``max_tokens`` cannot hold the bare template."""
        self._chat = chat
        self._family = family
        self._max_tokens = max_tokens
        self._build(_SAMPLE)

    def row(self, pair: Pair) -> RewardRow:
        """Raises `DataError` naming the pair (no label, a text that is not Unicode, too many turns)."""
        with _naming(pair):
            return self._build(_shown(pair, swapped=_label(pair) == 1))

    def _build(self, comparison: Comparison) -> RewardRow:
        """The longer conversation decides how much a response may have, and what is left of the prompt."""
        first, second = comparison.first, comparison.second
        swap = self._chat.count(first.text) < self._chat.count(second.text)
        longer, other = (second, first) if swap else (first, second)
        alone = Comparison(comparison.prompt, longer, Response(""))
        fitted = fit(self._chat, lambda c: self._one(c.prompt, c.first), alone, self._max_tokens)
        prompt, longest = fitted.comparison.prompt, fitted.ids
        whole, budget = self._chat.count(other.text), self._chat.count(fitted.comparison.first.text)
        kept = Response(cut_end(self._chat, other.text, budget))
        while len(ids := self._one(prompt, kept)) > self._max_tokens:  # other tokens may merge with the template's
            kept = Response(cut_end(self._chat, other.text, budget := budget - 1))
        cut = fitted.cut + whole - self._chat.count(kept.text)
        return RewardRow(ids, longest, cut) if swap else RewardRow(longest, ids, cut)

    def _one(self, prompt: Prompt, response: Response) -> tuple[int, ...]:
        return self._chat.encode(self._family.render_one(prompt, response))


def _shown(pair: Pair, swapped: bool) -> Comparison:
    return pair.comparison.swap() if swapped else pair.comparison


def _label(pair: Pair) -> int:
    if pair.label is None:
        raise DataError("field label: missing; this stage learns from labelled pairs only.")
    return 0 if pair.label == "a" else 1


@contextmanager
def _naming(pair: Pair) -> Iterator[None]:
    """Errors name the pair they are about."""
    try:
        yield
    except ServiceError as error:
        raise DataError(f"Pair {pair.id}: {error.message}") from error
    except DataError as error:
        raise DataError(f"Pair {pair.id}: {error}") from error
