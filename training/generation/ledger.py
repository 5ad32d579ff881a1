"""A file of answers that grows line by line and can be gone on with after an interruption.

    {"format": 1, "made_by": {"engine": "vllm", "model": "fingerprint", "dtype": "float32", ...}}
    {"key": "row-7", "asked": "3f2a0c...", "text": "...", "tokens": 41, "finish_reason": "stop"}
    {"key": "row-8", "asked": "99b1f0...", "error": "token_limit", "message": "..."}

The first line names what made the file, ``asked`` what exactly was asked: a file of other weights or other questions is
refused, not mixed in. A last line that a kill cut short is dropped. A whole run ends with its rows in the order of the
questions, so that an interrupted run that was resumed and one that was not leave the same bytes (nothing in a row
depends on time). A row that failed for a reason that may pass is asked again by the next start.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from service.types import Rationale
from training.data.pairs import DataError, read_objects
from training.generation.outcomes import Failure

FORMAT = 1
Row = Mapping[str, Any]


def digest_of(*parts: object) -> str:
    """16 hex digits that name what was asked; parts are plain values (their ``repr`` is hashed)."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of appended lines, one at a time. A last one without its line feed was cut by a kill: it is
    taken away."""
    place = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                print(f"{path}: the last line was cut off; it is left out and done again.")
                os.truncate(path, place)
                return
            place += len(line)
            yield line[:-1]


class Ledger:
    """An open file; a context manager. ``asked`` maps every key of this run, in order, to what is asked (`digest_of`).

    Rows stay in the file; here are only their places, so that millions of them fit.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any], asked: Mapping[str, str]) -> None:
        """Raises `DataError` for a file that something else made, or that holds no answers."""
        self.path = path
        self._head = {"format": FORMAT, "made_by": dict(made_by)}
        self._asked = asked
        self._places: dict[str, int] = {}
        self._open: set[str] = set()
        self._out: IO[bytes] | None = None
        if path.exists():
            self._read(whole_lines(path))

    def _read(self, lines: Iterator[bytes]) -> None:
        first = next(lines, None)
        if first is None:
            return
        if (head := _object(first)) != json.loads(json.dumps(self._head)):
            raise DataError(
                f"{self.path} was made by {_short(head)}, this run is {_short(self._head)}; "
                "delete the file or name another one."
            )
        place = len(first) + 1
        for number, line in enumerate(lines, start=2):
            row = _object(line)
            if row is None or not {"key", "asked"} <= row.keys():
                raise DataError(f"{self.path}, row {number}: not an answer; delete the file to make it again.")
            if self._asked.get(row["key"]) != row["asked"]:
                raise DataError(
                    f"{self.path}, row {number}: {row['key']} answers something else than this run asks; "
                    "delete the file or name another one."
                )
            self._note(row, place)
            place += len(line) + 1

    @property
    def done(self) -> set[str]:
        """Keys with an answer, or with a failure that is final."""
        return self._places.keys() - self._open

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._out = self.path.open("ab")
        if not self._out.tell():
            self._line(self._head)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._out is not None
        self._out.close()

    def add(self, key: str, row: Row) -> None:
        """Append one answer as one whole line."""
        whole = {"key": key, "asked": self._asked[key], **row}
        self._note(whole, self._line(whole))

    def fail(self, key: str, failure: Failure) -> None:
        row: dict[str, Any] = {"error": failure.code, "message": failure.message}
        if failure.rationales:
            row["rationales"] = [asdict(rationale) for rationale in failure.rationales]
        self.add(key, row)

    def finish(self) -> None:
        """Put the rows in the order of the questions. For a run without open questions."""
        part = self.path.with_name(self.path.name + ".part")
        with self.path.open("rb") as lines, part.open("wb") as out:
            out.write(lines.readline())
            for key in self._asked:
                lines.seek(self._places[key])
                out.write(lines.readline())
            out.flush()
            os.fsync(out.fileno())
        part.replace(self.path)

    def _note(self, row: Row, place: int) -> None:
        """The last line of a key counts."""
        self._places[row["key"]] = place
        failure = failure_of(row) if "error" in row else None
        (self._open.add if failure and not failure.is_final else self._open.discard)(row["key"])

    def _line(self, row: Row) -> int:
        """Append; returns where the line begins."""
        assert self._out is not None
        place = self._out.tell()
        self._out.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
        self._out.flush()
        return place


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a finished file, one at a time, without its first line. Raises `DataError` for another file."""
    rows = read_objects(path)
    if "made_by" not in next(rows)[1]:
        raise DataError(f"{path} is no file of generated answers; check the path.")
    for number, row in rows:
        if "key" not in row:
            raise DataError(f"{path}, row {number}: not an answer; make the file again.")
        yield row


def failure_of(row: Row) -> Failure:
    """A failed row, read."""
    return Failure(row["error"], row["message"], tuple(Rationale(**one) for one in row.get("rationales", ())))


def unique(keys: Iterable[str]) -> None:
    """Raises `DataError` for a key that occurs twice: their answers would be mixed up."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise DataError(f"Row {key} occurs twice; keys must differ.")
        seen.add(key)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _short(head: Row | None) -> str:
    made_by = (head or {}).get("made_by")
    return "something else" if made_by is None else json.dumps(made_by)
