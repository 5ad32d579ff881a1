"""Training prompts that a benchmark asks, too. Three rules, each counted by itself:

- ``same wording``: the prompt, or one of the user's turns of eight words or more, is a benchmark's, but for case,
  spacing and punctuation;
- ``13-gram``: they share thirteen words in a row (GPT-3, arXiv 2005.14165, appendix C). Thirteen words that more than
  ten benchmark prompts share are boilerplate, and do not count (the same source's rule, turned to the benchmark);
- ``8-grams``: shared runs of eight words cover half of a benchmark prompt or more (Tulu 3, arXiv 2411.15124, 3.2).

The files may be any benchmark's: their prompts are found by the names of columns, labels and responses are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.types import Message, Prompt
from training.data.files import data_files, records
from training.data.formats.base import ROLES
from training.data.pairs import DataError
from training.data.texts import whole_text, wording, words

LONG, SHORT = 13, 8
COVERED = 0.5
BOILERPLATE = 10

_COLUMNS = ("conversation_input", "messages", "conversations", "prompt", "question", "instruction", "context_messages")


def benchmark_prompts(path: Path) -> Iterator[Prompt]:
    """Prompts of a benchmark's file or folder. Raises `DataError` naming the first row where none is found."""
    for file in data_files(path):
        for number, row in records(file):
            prompt = _prompt(row)
            if prompt is None:
                raise DataError(
                    f"{file}, row {number}: no prompt found; one of the columns {', '.join(_COLUMNS)} must hold it, "
                    f"not only {', '.join(map(str, row))}."
                )
            yield prompt


def _prompt(row: Mapping[str, Any]) -> Prompt | None:
    for column in _COLUMNS:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            more = row.get("input") if column == "instruction" else None
            return Prompt.from_text(f"{value}\n\n{more}" if isinstance(more, str) and more.strip() else value)
        if isinstance(value, list) and value:
            turns = [_message(turn) for turn in value if isinstance(turn, Mapping)]
            return Prompt(tuple(turn for turn in turns if turn.content.strip()))
    return None


def _message(turn: Mapping[str, Any]) -> Message:
    role = str(turn.get("role", turn.get("from", "user")))
    content = turn.get("content", turn.get("value"))
    return Message(ROLES.get(role, role), content if isinstance(content, str) else "")


def _own_questions(prompt: Prompt) -> list[str]:
    """The user's turns that are long enough to be somebody's question and nobody else's."""
    return [m.content for m in prompt.messages if m.role == "user" and len(words(m.content)) >= SHORT]


@dataclass(slots=True)
class Benchmarks:
    """Prompts of benchmarks, indexed. `add` them all, then ask `overlap_of` training prompts."""

    _names: list[str] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)
    _same: dict[str, int] = field(default_factory=dict)
    _short: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    _long: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, prompt: Prompt) -> None:
        """One benchmark prompt; ``name`` says whose, in counts. Known wordings are not indexed again."""
        text = whole_text(prompt)
        if wording(text) in self._same:
            return
        index, said = len(self._names), words(text)
        self._names.append(name)
        self._lengths.append(len(said))
        for same in (text, *_own_questions(prompt)):
            self._same.setdefault(wording(same), index)
        for size, grams in ((SHORT, self._short), (LONG, self._long)):
            for gram in set(_grams(said, size)):
                grams.setdefault(gram, []).append(index)

    def overlap_of(self, prompt: Prompt) -> tuple[str, str] | None:
        """The rule by which a training prompt overlaps, and whose prompt it is; None if it does not."""
        for text in (whole_text(prompt), *_own_questions(prompt)):
            if (index := self._same.get(wording(text))) is not None:
                return "same wording", self._names[index]
        said = words(whole_text(prompt))
        for gram in _grams(said, LONG):
            where = self._long.get(gram, ())
            if 0 < len(where) <= BOILERPLATE:
                return f"{LONG}-gram", self._names[where[0]]
        covered = self._covered(said)
        index = max(covered, key=lambda i: covered[i] / self._lengths[i], default=-1)
        if index >= 0 and covered[index] >= COVERED * self._lengths[index]:
            return f"{SHORT}-grams", self._names[index]
        return None

    def _covered(self, said: list[str]) -> Counter[int]:
        """How many words of the text stand in runs of eight that it shares with each benchmark prompt; repeats once."""
        covered: Counter[int] = Counter()
        last: dict[int, int] = {}
        first_places = {gram: place for place, gram in reversed(list(enumerate(_grams(said, SHORT))))}
        for gram, place in sorted(first_places.items(), key=lambda item: item[1]):
            for index in self._short.get(gram, ()):
                covered[index] += min(SHORT, place - last.get(index, -SHORT))
                last[index] = place
        return covered


def _grams(said: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(said[start:] for start in range(size)), strict=False)
