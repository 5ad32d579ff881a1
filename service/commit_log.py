"""One line per queue commit in a file of this replica's own: enough to derive every mean and deviation again.

Off by default. The store stays what counts: the log is written after a commit, so a kill between the two leaves a gap,
which `service.replay` reports, and a disk that is full leaves one too, and an error in the service's log.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from service.errors import InvalidInput, ServiceError, StartupError
from service.normalization import WindowStats, check_scores
from service.stores.base import MAX_SEQ, MAX_WINDOW, CommitResult, QueueKey

LOG_FORMAT = "reward-commit"
LOG_VERSION = 1
KEY_FIELDS = tuple(field.name for field in fields(QueueKey))
LINE_FIELDS = frozenset(
    {"format", "version", "queue", "epoch", "window", "seq_first", "seq_last", "scores", "count", "mean", "std"}
)

log = logging.getLogger("gram.commit_log")


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """A commit as one line tells it. ``stats`` are those of the window after it."""

    key: QueueKey
    epoch: str
    window: int
    seq_first: int
    seq_last: int
    scores: tuple[float, ...]
    stats: WindowStats


class CommitLog:
    """The file at `path`, opened for appending. Replicas must not share one over a network file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._torn = False

    def open(self) -> None:
        """Create the file if it is not there. Raises `StartupError`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartupError("The commit log cannot be opened; check store.commit_log and permissions.") from error

    def append(self, key: QueueKey, window: int, commit: CommitResult) -> None:
        """Write the line of a new commit, in one piece and straight to the operating system.

        Raises nothing: the scores are counted already, and a failed reply would have them sent again.
        """
        if self._file is None or commit.replayed:
            return
        seqs = commit.seq_first, commit.seq_last
        line = dump_commit(LoggedCommit(key, commit.epoch, window, *seqs, commit.scores, commit.stats))
        data = b"\n" + line if self._torn else line  # never continue a line that was cut
        try:
            self._torn = os.write(self._file, data) < len(data)
        except OSError:
            self._torn = True
        if self._torn:
            log.error("a commit could not be written to the commit log; check the disk, a replay will show the gap")

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def dump_commit(commit: LoggedCommit) -> bytes:
    """A line of JSON with its newline; floats in their shortest form that reads back as the same bits."""
    body = {
        "format": LOG_FORMAT,
        "version": LOG_VERSION,
        "queue": dict(zip(KEY_FIELDS, astuple(commit.key), strict=True)),
        "epoch": commit.epoch,
        "window": commit.window,
        "seq_first": commit.seq_first,
        "seq_last": commit.seq_last,
        "scores": commit.scores,
        "count": commit.stats.count,
        "mean": commit.stats.mean,
        "std": commit.stats.std,
    }
    return json.dumps(body, separators=(",", ":")).encode("ascii") + b"\n"


def load_commit(line: bytes) -> LoggedCommit:
    """The commit of a line. Raises `InvalidInput` for anything `dump_commit` did not write."""
    try:
        body = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput("is not valid JSON; it was cut or altered") from error
    if not isinstance(body, dict) or body.get("format") != LOG_FORMAT:
        raise InvalidInput("is not a line of a commit log")
    if type(body.get("version")) is not int or body["version"] != LOG_VERSION:
        raise InvalidInput(f"has another version; this service reads version {LOG_VERSION}")
    try:
        return _commit_of(body)
    except (ServiceError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput("has missing or impossible fields") from error


def _commit_of(body: dict[str, Any]) -> LoggedCommit:
    first, last, window, scores = body["seq_first"], body["seq_last"], body["window"], body["scores"]
    whole = all(type(number) is int for number in (first, last, window, body["count"]))
    if not whole or body.keys() != LINE_FIELDS or body["queue"].keys() != set(KEY_FIELDS):
        raise TypeError
    if not (1 <= first <= last <= MAX_SEQ and 1 <= window <= MAX_WINDOW and len(scores) == last - first + 1):
        raise TypeError
    mean, std = check_scores([body["mean"], body["std"]])
    if not isinstance(body["epoch"], str) or std < 0.0 or not all(isinstance(p, str) for p in body["queue"].values()):
        raise TypeError
    key = QueueKey(**body["queue"])
    return LoggedCommit(
        key, body["epoch"], window, first, last, check_scores(scores), WindowStats(body["count"], mean, std)
    )
