"""A source of pairs: files or a hub data set, its format, and the pairs it yields one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from training.data.files import Record, data_files, records, sha256_of, stem_of
from training.data.formats.base import Dropped, Format, Read, Row
from training.data.formats.registry import detect, get_format
from training.data.hub import hub_records
from training.data.pairs import Pair


@dataclass(frozen=True, slots=True)
class Source:
    """Where pairs come from. ``location`` is a path, or ``hub:owner/name`` with ``split``, ``config``, ``revision`` and
    ``folder``.

    ``format`` is a name of the registry; None recognises it by the columns of each file's first row. ``name`` begins
    the ids of the pairs; by default it is the format's. ``drop_rows`` are row numbers, counted from 0, to leave out.
    """

    location: str
    format: str | None = None
    name: str | None = None
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    drop_rows: frozenset[int] = frozenset()
    folder: str | None = None

    @property
    def is_hub(self) -> bool:
        return self.location.startswith("hub:")


@dataclass(slots=True)
class Origin:
    """What was read, for the data card: path (or hub name and revision), sha256, format, rows."""

    location: str
    sha256: str
    format: str
    rows: int = 0


@dataclass(slots=True)
class Reading:
    """One pass over a source. ``origins`` is complete when the pass is over."""

    source: Source
    origins: list[Origin] = field(default_factory=list)

    def __iter__(self) -> Iterator[Read]:
        """Pairs and rows left out. Raises `DataError` naming file, row and field for anything that is neither."""
        if self.source.is_hub:
            yield from self._hub()
            return
        files = data_files(Path(self.source.location))
        for path in files:
            origin = Origin(str(path), sha256_of(path), "")
            self.origins.append(origin)
            within = "" if len(files) == 1 else str(path.relative_to(self.source.location).with_name(stem_of(path)))
            yield from self._rows(records(path), origin, within)

    def _hub(self) -> Iterator[Read]:
        name = self.source.location.removeprefix("hub:")
        shown = f"hub:{name}@{self.source.revision or 'latest'}/{self.source.split}"
        origin = Origin(shown, "", "")
        self.origins.append(origin)
        digest = sha256()

        def hashed() -> Iterator[tuple[int, Record]]:
            source = self.source
            rows = hub_records(
                name, split=source.split, config=source.config, revision=source.revision, folder=source.folder
            )
            for number, row in rows:
                digest.update(json.dumps(row, sort_keys=True, default=str).encode())
                origin.sha256 = digest.hexdigest()  # of the rows so far: a reader may stop before the end
                yield number, row

        yield from self._rows(hashed(), origin, "")

    def _rows(self, rows: Iterator[tuple[int, Record]], origin: Origin, stem: str) -> Iterator[Read]:
        chosen: Format | None = get_format(self.source.format) if self.source.format else None
        for count, (number, data) in enumerate(rows, start=1):
            chosen = chosen or detect(f"{origin.location}, row {number}", data)
            origin.format, origin.rows = chosen.name, count
            row = Row(origin.location, number, data, self.source.name or chosen.name, stem)
            if count - 1 in self.source.drop_rows:
                yield Dropped(row.id(), "in the list of rows to drop")
            else:
                yield from chosen.read(row)


def pairs_of(location: str, format_name: str | None = None) -> Iterator[Pair]:
    """The pairs of a file, folder or hub data set, rows that a format drops left out. Raises `DataError`."""
    for item in Reading(Source(location, format_name)):
        if isinstance(item, Pair):
            yield item
