"""Prompts of a study: one JSON object a line, with an answer where a checker shall be the oracle.

{"id": "q1", "prompt": "What is 7 + 5?", "answer": "12"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.types import Message, Prompt
from training.data.pairs import DataError

Asked = tuple[str, Prompt, str | None]
"""A prompt with its name and, where one is known, the right answer."""


def read_prompts(path: Path) -> Iterator[Asked]:
    """Rows with ``prompt`` (a text or a list of turns), and ``id`` and ``answer`` where there are any; a file of pairs
    will do. A prompt that comes again is left out. Raises `DataError` naming file, row and field."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); name a JSONL file of prompts.") from error
    seen: set[Prompt] = set()
    for row, line in enumerate(lines, start=1):
        if not line:
            continue
        where = f"{path}, row {row}"
        try:
            data = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); every row must be one JSON object.") from error
        prompt = _prompt(where, data)
        answer = data.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise DataError(f"{where}, field answer: must be a text.")
        if prompt not in seen:
            seen.add(prompt)
            yield str(data.get("id", f"{path.stem}/{row}")), prompt, answer
    if not seen:
        raise DataError(f"{path} is empty; name a file of prompts.")


def _prompt(where: str, data: Any) -> Prompt:
    value = data.get("prompt") if isinstance(data, dict) else None
    if isinstance(value, str) and value.strip():
        return Prompt.from_text(value)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(t, dict) and {"role", "content"} <= t.keys() for t in value)
    ):
        return Prompt(tuple(Message(str(turn["role"]), str(turn["content"])) for turn in value))
    raise DataError(f"{where}, field prompt: must be a text or a list of turns with role and content.")
