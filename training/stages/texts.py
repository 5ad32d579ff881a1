"""Rows of stages that learn to write: a prompt, the text, the token that ends it. Only text and end are learned.

A judgment's prompt is rendered by its judge's family and cut where it is too long, as everywhere; a text is never cut:
one that leaves no room for its prompt is left out, and `left_out` names it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch.utils.data import Dataset

from service.judging.base import PairwiseFamily
from service.tokenization import ChatTokenizer
from service.types import Comparison, Prompt, Response
from training.data.judgments import WrittenJudgment
from training.data.lengths import fit
from training.data.pairs import DataError, Pair
from training.data.writing import Text
from training.stages.datasets import pair_bytes
from training.stages.examples import Example, Read, Span

KIND = "text"
"""The name of the learned span in logs."""
_MEASURED = 256
_BYTES_A_TOKEN = 4
"""Roughly; it only decides which rows lie beside each other."""
_SAMPLE = Comparison(Prompt.from_text("x"), Response("y"), Response("z"))


class WritingRows(Dataset[Example]):
    """Rows in the order given, each once an epoch."""

    def __init__(self, chat: ChatTokenizer, max_tokens: int) -> None:
        """Raises `DataError` for a tokenizer whose texts would never end."""
        if chat.eos_id is None:
            raise DataError("The tokenizer has no end-of-text token, so a text would never end; use another one.")
        self.chat, self.max_tokens = chat, max_tokens
        self.left_out: list[str] = []
        self._end = chat.eos_id

    @abstractmethod
    def prompt_ids(self, index: int, room: int) -> tuple[int, ...]:
        """The row's prompt in at most ``room`` tokens. Raises `DataError` naming the row."""

    @abstractmethod
    def text_of(self, index: int) -> str: ...

    @abstractmethod
    def prompt_bytes(self, index: int) -> int:
        """About how long the row's prompt is, known without rendering it."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        written = (*self.chat.encode_text(self.text_of(index)), self._end)
        prompt = self.prompt_ids(index, self.max_tokens - len(written))
        return Example((*prompt, *written), spans=(Span(KIND, len(prompt), len(prompt) + len(written)),))

    def lengths(self) -> list[int]:
        """See `training.stages.datasets.Measured`."""
        return [self.prompt_bytes(i) + len(self.text_of(i).encode("utf-8", "ignore")) for i in range(len(self))]

    @property
    def longest(self) -> int:
        """Tokens of the longest text, its end included; measured on those of the most characters."""
        texts = sorted(map(self.text_of, range(len(self))), key=len)[-_MEASURED:]
        return 1 + max((self.chat.count(text) for text in texts), default=0)

    def common_prefix(self) -> tuple[int, ...]:
        """The tokens that every prompt begins with. Renders all rows: for data that fits a CPU run."""
        shared: tuple[int, ...] | None = None
        for index in range(len(self)):
            example = self[index]
            ids = example.ids[: example.spans[0].start - 1]
            shared = ids if shared is None else shared[: _agreeing(shared, ids)]
        return shared or ()

    def is_longer(self, text: str, room: int) -> bool:
        """More than ``room`` tokens with its end? Bytes bound tokens, so that most texts need not be tokenized."""
        return len(text.encode("utf-8", "surrogatepass")) >= room and self.chat.count(text) >= room


class JudgmentRows(WritingRows):
    """Written judgments in one family's grammar and one of its prompts."""

    def __init__(
        self, judgments: Sequence[WrittenJudgment], chat: ChatTokenizer, family: PairwiseFamily, max_tokens: int
    ) -> None:
        """Raises `DataError` for another family's judgments, and texts its parser reads as another verdict or none."""
        super().__init__(chat, max_tokens)
        self._family = family
        room = max_tokens - 2 * len(chat.encode(family.render(_SAMPLE)))
        for item in judgments:
            if item.family != family.name:
                raise DataError(
                    f"Judgment of pair {item.pair.id}, field family: {item.family}, the recipe's is {family.name}."
                )
            item.require_verdict()
        self._items = [item for item in judgments if not self.is_longer(item.text, room)]
        kept = set(map(id, self._items))
        self.left_out = [item.pair.id for item in judgments if id(item) not in kept]

    def __len__(self) -> int:
        return len(self._items)

    def text_of(self, index: int) -> str:
        return self._items[index].text

    def prompt_bytes(self, index: int) -> int:
        return pair_bytes(self._items[index].pair)

    def prompt_ids(self, index: int, room: int) -> tuple[int, ...]:
        item = self._items[index]
        try:
            return fit(self.chat, lambda c: self.chat.encode(self._family.render(c)), item.shown, room).ids
        except DataError as error:
            raise DataError(f"Judgment of pair {item.pair.id}: {error}") from error


class PromptRows(WritingRows):
    """Prompts that are nobody's judge prompt. They are not cut: a row that is too long is left out."""

    def __init__(self, texts: Sequence[Text], chat: ChatTokenizer, max_tokens: int) -> None:
        super().__init__(chat, max_tokens)
        whole = [(chat.encode(text.prompt), text) for text in texts]
        self._items = [(ids, t) for ids, t in whole if not self.is_longer(t.text, max_tokens - len(ids))]
        kept = {id(text) for _, text in self._items}
        self.left_out = [text.id for text in texts if id(text) not in kept]

    def __len__(self) -> int:
        return len(self._items)

    def text_of(self, index: int) -> str:
        return self._items[index][1].text

    def prompt_bytes(self, index: int) -> int:
        return _BYTES_A_TOKEN * len(self._items[index][0])

    def prompt_ids(self, index: int, room: int) -> tuple[int, ...]:
        return self._items[index][0]


class PairPrompts(Dataset[Example]):
    """Labelled pairs to be judged in writing: rows 2i and 2i + 1 are the two orders of a pair."""

    def __init__(self, pairs: Sequence[Pair], chat: ChatTokenizer, family: PairwiseFamily, max_tokens: int) -> None:
        """``max_tokens`` is the prompt's own room: what the model has, less what it may write."""
        self._pairs, self._chat, self._family, self._max_tokens = pairs, chat, family, max_tokens

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        pair = self._pairs[index // 2] if index % 2 == 0 else self._pairs[index // 2].swapped
        try:
            fitted = fit(
                self._chat, lambda c: self._chat.encode(self._family.render(c)), pair.comparison, self._max_tokens
            )
        except DataError as error:
            raise DataError(f"Pair {pair.id}: {error}") from error
        return Example(fitted.ids, reads=(Read("label", len(fitted.ids) - 1, 0 if pair.label == "a" else 1),))


def _agreeing(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many tokens two rows begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
