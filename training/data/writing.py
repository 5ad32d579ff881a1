"""What a model learns to write: a prompt, and the text that answers it. One row of JSONL each:

    {"id": "hs3/17", "family": "prover", "prompt": [{"role": "user", "content": "..."}], "text": "..."}

``family`` names whose prompt it is; ``enable_thinking`` (true, false, or absent) goes to the chat template. A prompt
must not hold what it is to be answered with: `training.data.judgments` keeps pairs instead of prompts for that reason,
so this form is for prompts that are no judge's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.types import Message, Rendered
from training.data.pairs import DataError, read_objects, write_objects

_NEEDED = ("id", "family", "prompt", "text")


@dataclass(frozen=True, slots=True)
class Text:
    """A chat ready for tokenization, and what is to be written after it (the end token left out)."""

    id: str
    family: str
    prompt: Rendered
    text: str


def read_texts(path: Path) -> Iterator[Text]:
    """The rows of a file, one at a time. Raises `DataError` naming file, row and field, for no rows too."""
    for row, data in read_objects(path):
        yield _text(f"{path}, row {row}", data)


def write_texts(path: Path, texts: Iterable[Text]) -> int:
    """Write a file that is whole or absent; returns the number of rows."""
    return write_objects(path, map(_row, texts))


def _row(text: Text) -> dict[str, Any]:
    prompt = [{"role": m.role, "content": m.content} for m in text.prompt.messages]
    row = {"id": text.id, "family": text.family, "prompt": prompt, "text": text.text}
    thinking = text.prompt.enable_thinking
    return row if thinking is None else {**row, "enable_thinking": thinking}


def _text(where: str, data: Mapping[str, Any]) -> Text:
    if unknown := sorted(data.keys() - {*_NEEDED, "enable_thinking"}):
        raise DataError(f"{where}, field {unknown[0]}: unknown (known: {', '.join(_NEEDED)}, enable_thinking).")
    for field in ("id", "family", "text"):
        if not isinstance(data.get(field), str) or not data[field].strip():
            raise DataError(f"{where}, field {field}: must be a text that is not empty.")
    if data.get("enable_thinking") not in (None, True, False):
        raise DataError(f"{where}, field enable_thinking: must be true or false.")
    rendered = Rendered(_messages(where, data.get("prompt")), enable_thinking=data.get("enable_thinking"))
    return Text(data["id"], data["family"], rendered, data["text"])


def _messages(where: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}, field prompt: must be a list of turns with role and content.")
    for turn in value:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}, field prompt: every turn must have a role and a content, both texts.")
    return tuple(Message(turn["role"], turn["content"]) for turn in value)
