"""Reading the project's documents the way a reader does: tables, code blocks, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A table row: the heading it stands under and its cells, back-ticks removed."""

    heading: str
    cells: tuple[str, ...]


def table_rows(path: Path) -> Iterator[Row]:
    """All body rows of all tables."""
    heading, in_body = "", False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            in_body = False
        elif set(line) <= set("|- "):
            in_body = True
        elif in_body:
            yield Row(heading, tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|")))


def code_blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks marked with this language."""
    return [text for marked, text in _FENCE.findall(path.read_text(encoding="utf-8")) if marked == language]
