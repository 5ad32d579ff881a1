"""Preference pairs, and the one file format they are kept in between the steps of training and evaluation: JSONL.

    {"id": "tldr/17", "prompt": "Sum up ...", "response_a": "...", "response_b": "...", "label": "a", "source": "tldr"}

``prompt`` is a text (one user turn) or a list of ``{"role", "content"}`` turns; ``label`` is "a", "b" or null
(unlabelled); ``source``, ``margin``, ``subset`` and ``group`` may be absent. Rows are split at line feeds only: U+2028
inside a text is text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from service.types import Comparison, Message, Prompt, Response

PairLabel = Literal["a", "b"]

KNOWN_ROLES = ("system", "user", "assistant", "tool")
"""Whose turn it is, in the service's words."""

_KNOWN = frozenset({"id", "prompt", "response_a", "response_b", "label", "source", "margin", "subset", "group"})


class DataError(ValueError):
    """A file that cannot be used as it is. The message names file, row and field, and says what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt, two responses, and which is better if anyone said so.

    ``margin`` is how much better, in the source's own unit. ``subset`` is a benchmark's or a source's own division.
    Pairs of one ``group`` (a prompt, unless the source says otherwise) are not independent: splits and intervals keep
    them together.
    """

    id: str
    prompt: Prompt
    response_a: str
    response_b: str
    label: PairLabel | None = None
    source: str = ""
    margin: float | None = None
    subset: str = ""
    group: str = ""

    @property
    def comparison(self) -> Comparison:
        """As the judge is shown it, A first."""
        return Comparison(self.prompt, Response(self.response_a), Response(self.response_b))

    @property
    def swapped(self) -> Pair:
        """The same judgment with the responses the other way round."""
        label: PairLabel | None = None if self.label is None else "b" if self.label == "a" else "a"
        return replace(self, response_a=self.response_b, response_b=self.response_a, label=label)

    @property
    def chosen(self) -> str:
        """The better response. Raises `ValueError` for an unlabelled pair."""
        if self.label is None:
            raise ValueError(f"Pair {self.id} carries no label.")
        return self.response_a if self.label == "a" else self.response_b

    @property
    def rejected(self) -> str:
        """The worse response. Raises `ValueError` for an unlabelled pair."""
        if self.label is None:
            raise ValueError(f"Pair {self.id} carries no label.")
        return self.response_b if self.label == "a" else self.response_a


def shown_swapped(pair: Pair, seed: int) -> bool:
    """Is the pair shown with B first? A fair coin of pair and seed; another seed each epoch flips it anew."""
    digest = hashlib.sha256(f"{seed}\x1f{pair.id}\x1f{pair.response_a}\x1f{pair.response_b}".encode(errors="replace"))
    return bool(digest.digest()[0] & 1)


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file, one at a time. Raises `DataError` naming file, row and field; an empty file is one too."""
    for row, data in read_objects(path):
        yield pair_of_row(f"{path}, row {row}", data, f"{path.stem}/{row}")


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Write a file that is whole or absent; returns the number of rows. What was at ``path`` stays until the end."""
    return write_objects(path, map(as_row, pairs))


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a JSONL file with their row numbers, from 1. Raises `DataError`, also when there are none."""
    row = 0
    try:
        with path.open("rb") as lines:
            for row, line in enumerate(lines, start=1):
                yield row, _object(f"{path}, row {row}", line)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its rights.") from error
    if row == 0:
        raise DataError(f"{path} is empty; build it again, or name another file.")


def write_objects(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a JSONL file that is whole or absent; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    count = 0
    try:
        with part.open("w", encoding="utf-8", newline="\n") as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def as_row(pair: Pair) -> dict[str, Any]:
    """The pair as its JSON object; fields that say nothing are left out, an absent label is null."""
    messages = [{"role": m.role, "content": m.content} for m in pair.prompt.messages]
    prompt: Any = pair.prompt.messages[0].content if pair.prompt.is_single_turn else messages
    row = {"id": pair.id, "prompt": prompt, "response_a": pair.response_a, "response_b": pair.response_b}
    more = {"source": pair.source, "margin": pair.margin, "subset": pair.subset, "group": pair.group}
    return {**row, "label": pair.label, **{k: v for k, v in more.items() if v not in (None, "")}}


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason}); convert the file.") from error
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); every row must be one JSON object.") from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: not a JSON object; every row must be one.")
    return data


def pair_of_row(where: str, data: Mapping[str, Any], default_id: str) -> Pair:
    """One row as a pair; ``where`` names file and row in errors. Raises `DataError` naming the field."""
    if unknown := sorted(data.keys() - _KNOWN):
        raise DataError(f"{where}, field {unknown[0]}: unknown (known: {', '.join(sorted(_KNOWN))}).")
    label = data.get("label")
    if label not in (None, "a", "b"):
        raise DataError(f'{where}, field label: must be "a", "b" or null, not {json.dumps(label)[:40]}.')
    margin = data.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float) or not isfinite(margin)):
        raise DataError(f"{where}, field margin: must be a finite number.")
    return Pair(
        id=_text(where, data, "id") if "id" in data else default_id,
        prompt=_prompt(where, data),
        response_a=_text(where, data, "response_a"),
        response_b=_text(where, data, "response_b"),
        label=label,
        margin=margin,
        **{key: _text(where, data, key) if key in data else "" for key in ("source", "subset", "group")},
    )


def _text(where: str, data: Mapping[str, Any], key: str) -> str:
    if key not in data:
        raise DataError(f"{where}, field {key}: missing.")
    if not isinstance(data[key], str):
        raise DataError(f"{where}, field {key}: must be a text.")
    return str(data[key])


def _prompt(where: str, data: Mapping[str, Any]) -> Prompt:
    value = data.get("prompt")
    if isinstance(value, str):
        return Prompt.from_text(value)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}, field prompt: must be a text or a list of turns with role and content.")
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}, field prompt: every turn must have a role and a content, both texts.")
        if turn["role"] not in KNOWN_ROLES:
            raise DataError(f"{where}, field prompt: a turn's role must be one of {', '.join(KNOWN_ROLES)}.")
        messages.append(Message(turn["role"], turn["content"]))
    return Prompt(tuple(messages))
