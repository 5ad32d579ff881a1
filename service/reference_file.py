"""References from a file, at start-up: JSON lines of a prompt (a text, or a chat) and the response others must beat."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from service.errors import ServiceError, StartupError
from service.schemas.requests import ReferenceItem, to_prompt
from service.stores.references_base import ReferenceStore, key_of

log = logging.getLogger("gram.references")

BATCH = 4096


async def load_references(path: Path, store: ReferenceStore) -> int:
    """Store every line's reference; returns how many there were.

    Raises `StartupError` with the line's number for a file that cannot be read or a line that is no reference, and when
    the store has no room.
    """
    count = 0
    batch: dict[str, str] = {}
    for item in _items(path):
        batch[key_of(to_prompt(item.prompt))] = item.reference
        count += 1
        if len(batch) >= BATCH:
            await _keep(path, store, batch)
            batch = {}
    await _keep(path, store, batch)
    log.info("%d references were read from %s", count, path)
    return count


async def _keep(path: Path, store: ReferenceStore, batch: dict[str, str]) -> None:
    try:
        await store.put(batch)
    except ServiceError as error:
        raise StartupError(f"The references of {path} cannot be stored. {error.message}") from error


def _items(path: Path) -> Iterator[ReferenceItem]:
    """Empty lines are left out, and counted where an error names a line."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _item(line, f"Line {number} of {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"The references file {path} cannot be read; correct references.file.") from error


def _item(line: str, place: str) -> ReferenceItem:
    try:
        return ReferenceItem.model_validate_json(line)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, found["loc"])) or "the line"
        raise StartupError(f"{place} is no reference: {where}: {found['msg']}.") from None
