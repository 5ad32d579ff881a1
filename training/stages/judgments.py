"""Written judgments as examples: GRAM-R2's objective (arXiv 2509.02492), next-token loss of judgment and label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from torch.utils.data import Dataset

from service.judging import gram_r2
from service.tokenization import ChatTokenizer
from training.configs import PreferenceObjective
from training.data.judgments import WrittenJudgment, read_judgments
from training.data.lengths import fit
from training.data.pairs import DataError
from training.stages.datasets import pair_bytes
from training.stages.examples import Example, Span
from training.stages.labels import Helpers

FAMILY = 1
"""Its number among the prefixes; the label family is 0."""


class JudgmentDataset(Dataset[Example]):
    """Each judgment once an epoch, after the prompt it was written for."""

    def __init__(
        self,
        judgments: Sequence[WrittenJudgment],
        chat: ChatTokenizer,
        objective: PreferenceObjective,
        max_tokens: int,
    ) -> None:
        """Raises `DataError` for texts the judge's own parser would read as another verdict, or as none."""
        if chat.eos_id is None:
            raise DataError("The tokenizer has no end-of-text token, so a judgment would never end; use another one.")
        self._judgments, self._chat, self._max_tokens = judgments, chat, max_tokens
        self._end = chat.eos_id
        self._helpers = Helpers(chat, gram_r2.FAMILY, objective)
        for item in judgments:
            if item.family != gram_r2.FAMILY.name:
                raise DataError(
                    f"Judgment of pair {item.pair.id}, field family: {item.family}; these are learned by `distill`."
                )
            item.require_verdict()

    @property
    def longest(self) -> int:
        """Tokens of the longest judgment, its end included."""
        return 1 + max(self._chat.count(item.text) for item in self._judgments)

    def __len__(self) -> int:
        return len(self._judgments)

    def lengths(self) -> list[int]:
        return [pair_bytes(item.pair) + len(item.text.encode()) for item in self._judgments]

    def __getitem__(self, index: int) -> Example:
        item = self._judgments[index]
        written = (*self._chat.encode_text(item.text), self._end)
        room = self._max_tokens - len(written)
        try:
            fitted = fit(self._chat, lambda c: self._chat.encode(gram_r2.FAMILY.render(c)), item.shown, room)
        except DataError as error:
            raise DataError(f"Judgment of pair {item.pair.id}: {error}") from error
        reads, spans = self._helpers.of(fitted.comparison, fitted.ids, "AB".index(item.letter))
        judgment = Span("judgment", len(fitted.ids), len(fitted.ids) + len(written))
        return Example((*fitted.ids, *written), reads, (judgment, *spans), FAMILY)


def judgments_of(files: Sequence[str]) -> list[WrittenJudgment]:
    """All judgments of a recipe's files. Raises `DataError`."""
    return list(chain.from_iterable(read_judgments(Path(path)) for path in files))
