"""Files of rows, a row a line: what is judged, what is written, and how a run goes on where another one stopped.

One line out for each row in, in order, so that line k answers row k. Each carries the row's ``index``, its ``id`` and a
digest of it (``row``); a run that finds lines already there checks them against the input and goes on behind them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_client.items import Group, Pair, Referenced, Single
from gram_client.results import Flag, ItemError, JudgeVersion, Verdict
from gram_client.scores import Row, Scores

Json = dict[str, Any]
Items = list[Pair] | list[Referenced] | list[Group] | list[Single]


class FileProblem(Exception):
    """A file that cannot be used as it is; one sentence says which, where and what to do."""


@dataclass(frozen=True)
class Kind:
    """A kind of row: its fields, and how it becomes an item. ``noun`` is for people."""

    noun: str
    fields: Mapping[str, type[str] | type[list[str]]]
    item: Callable[[Json], Any]


PAIRS = Kind(
    "pairs",
    {"response_a": str, "response_b": str},
    lambda row: Pair(row["prompt"], row["response_a"], row["response_b"], _id(row)),
)
PREFERENCES = Kind(
    "preferences",
    {"chosen": str, "rejected": str},
    lambda row: Pair(row["prompt"], row["chosen"], row["rejected"], _id(row)),
)
REFERENCES = Kind(
    "responses with references",
    {"response": str, "reference": str},
    lambda row: Referenced(row["prompt"], row["response"], row["reference"], _id(row)),
)
GROUPS = Kind("groups", {"responses": list}, lambda row: Group(row["prompt"], row["responses"], _id(row)))
SINGLES = Kind("responses", {"response": str}, lambda row: Single(row["prompt"], row["response"], _id(row)))
KINDS = (PAIRS, PREFERENCES, REFERENCES, GROUPS, SINGLES)
"""The first whose fields a row has is its kind."""


def _id(row: Json) -> str | None:
    return None if row.get("id") is None else str(row["id"])


@dataclass(frozen=True)
class Source:
    """Rows of a file that are all of one kind."""

    path: Path
    kind: Kind
    count: int

    @classmethod
    def open(cls, path: Path) -> Source:
        """Counts the rows and reads the kind off the first. Raises `FileProblem`."""
        count, kind = 0, None
        for number, line in _lines(path):
            count += 1
            kind = kind or _kind(path, number, _row(path, number, line))
        if kind is None:
            raise FileProblem(f"{path} has no rows; name a file with one JSON object a line.")
        return cls(path, kind, count)

    def rows(self) -> Iterator[tuple[Json, str]]:
        """Each row with its digest. Raises `FileProblem` for one that is no row of this kind."""
        for number, line in _lines(self.path):
            row = _row(self.path, number, line)
            _check(self.path, number, row, self.kind)
            yield row, digest(line)


def digest(line: bytes) -> str:
    return hashlib.sha256(line.strip()).hexdigest()[:16]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1 as editors do."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise FileProblem(f"{path} cannot be read ({error.strerror}); correct the name.") from error


def _row(path: Path, number: int, line: bytes) -> Json:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FileProblem(f"{path}, line {number}: not JSON ({error}); write one object a line.") from error
    if not isinstance(row, dict):
        raise FileProblem(f"{path}, line {number}: not an object; write one object a line.")
    return row


def _kind(path: Path, number: int, row: Json) -> Kind:
    for kind in KINDS:
        if all(name in row for name in kind.fields):
            return kind
    known = "; ".join("prompt, " + ", ".join(kind.fields) for kind in KINDS)
    raise FileProblem(f"{path}, line {number}: unknown kind of row; its fields must be one of: {known}.")


def _check(path: Path, number: int, row: Json, kind: Kind) -> None:
    where = f"{path}, line {number}: "
    if not isinstance(row.get("prompt"), (str, list)):
        raise FileProblem(f"{where}prompt must be a text or a list of messages.")
    for name, wanted in kind.fields.items():
        value = row.get(name)
        texts = value if wanted is list else [value]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            noun = "a list of texts" if wanted is list else "a text"
            raise FileProblem(f"{where}{name} must be {noun}, as in the file's first row ({kind.noun}).")


# --- what is written -----------------------------------------------------------------------------------------------


def pair_line(verdict: Verdict) -> Json:
    return {
        "status": verdict.status,
        "p_first": verdict.p_first,
        "margin": verdict.margin,
        "preferred": verdict.preferred,
        "consistent": verdict.consistent,
        "label_mass": verdict.label_mass,
        **_tail(verdict.flags, verdict.error, verdict.judge_version),
    }


def row_line(row: Row, version: JudgeVersion | None) -> Json:
    numbers = {"status": row.status, "score": row.score, "margin": row.margin, "consistent": row.consistent}
    return numbers | _tail(row.flags, row.error, version)


def group_line(rows: Sequence[Row], version: JudgeVersion | None) -> Json:
    """Scores in the order of the responses; a group fails whole."""
    error = next((row.error for row in rows if row.error is not None), None)
    scores = [row.score for row in rows if row.score is not None]
    flags = tuple(dict.fromkeys(flag for row in rows for flag in row.flags))
    if error is not None:
        return {"status": "failed", "scores": None, "best": None} | _tail(flags, error, version)
    line = {"status": "ok", "scores": scores, "best": scores.index(max(scores))}
    return line | _tail(flags, error, version)


def score_lines(scores: Scores, kind: Kind) -> list[Json]:
    """A line for each item that was sent."""
    if kind is GROUPS:
        return [group_line(rows, scores.judge_version) for rows in scores.by_group()]
    return [row_line(row, scores.judge_version) for row in scores.rows]


def _tail(flags: Sequence[Flag], error: ItemError | None, version: JudgeVersion | None) -> Json:
    tail: Json = {"flags": [flag.code for flag in flags]}
    if error is not None:
        tail["error"] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if version is not None:
        tail["judge"] = f"{version.judge}/{version.weight_version}/{version.template_hash}"
    return tail


# --- going on ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What an output file already holds: the digests of its rows in order, and how many of them failed."""

    digests: tuple[str, ...] = ()
    failed: int = 0


def resume(path: Path) -> Done:
    """Read an output file, cut off a line that was torn when its run was killed. Raises `FileProblem`."""
    if not path.exists():
        return Done()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    digests, failed = [], 0
    for index, line in enumerate(whole.splitlines()):
        row = _written(path, index, line)
        digests.append(str(row["row"]))
        failed += row.get("status") != "ok"
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return Done(tuple(digests), failed)


def _written(path: Path, index: int, line: bytes) -> Json:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or row.get("index") != index or "row" not in row:
        problem = f"{path}, line {index + 1}: not a line that this command wrote"
        raise FileProblem(f"{problem}; name another output, or begin anew with --overwrite.")
    return row


def check_same(done: Done, index: int, found: str, source: Path, target: Path) -> None:
    """Raises `FileProblem` where row `index` of the input is not the one that was judged."""
    if done.digests[index] != found:
        raise FileProblem(
            f"Row {index} of {source} is not the one that {target} answers; the input has changed. Name another "
            "output, or begin anew with --overwrite."
        )
