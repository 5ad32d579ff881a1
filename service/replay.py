"""From commit logs, derive every mean and standard deviation again and compare it bit for bit with what was answered.

Logs of all replicas are merged and ordered by ``seq``. Where entries are missing, commits cannot be checked until a
whole window has passed again; how many is said. Everything is held in memory, about 60 bytes a score.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.commit_log import LoggedCommit, load_commit
from service.errors import InvalidInput
from service.normalization import window_stats
from service.stores.base import EXPORT_FORMAT, Queue, QueueKey, load_queue

Epoch = tuple[QueueKey, str]


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries of an epoch that no log holds."""

    queue: str
    epoch: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"queue {self.queue}, epoch {self.epoch}: no log holds entries {self.first} to {self.last}"


@dataclass(slots=True)
class Summary:
    """What a replay found. ``unchecked`` commits follow a gap and have no whole window before them."""

    commits: int = 0
    scores: int = 0
    epochs: int = 0
    duplicates: int = 0
    unchecked: int = 0
    exports: int = 0
    exported_scores: int = 0
    gaps: list[Gap] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every statistic was checked and no line came twice."""
        return not self.gaps and not self.duplicates

    def lines(self) -> list[str]:
        told = [
            f"{self.commits - self.unchecked} of {self.commits} commits ({self.scores} scores, {self.epochs} epochs): "
            "every mean and standard deviation comes out again, bit for bit.",
            *map(str, self.gaps),
        ]
        if self.unchecked:
            told.append(f"{self.unchecked} commits after gaps could not be checked.")
        if self.duplicates:
            told.append(f"{self.duplicates} lines came twice and were counted once.")
        if self.exports:
            told.append(f"{self.exports} exports agree with the logs in {self.exported_scores} scores.")
        return told


def replay(paths: Sequence[Path]) -> Summary:
    """Check commit logs, and queue exports among them, against each other.

    Raises `InvalidInput` with one sentence at the first line that cannot be read or figure that does not come out.
    """
    epochs: dict[Epoch, list[LoggedCommit]] = defaultdict(list)
    exports: list[tuple[Path, Queue]] = []
    for path in paths:
        data = _read(path)
        if _is_export(data):
            exports.append((path, load_queue(data)))
            continue
        for commit in _commits(path, data):
            epochs[commit.key, commit.epoch].append(commit)
    summary = Summary(epochs=len(epochs), exports=len(exports))
    for commits in epochs.values():
        commits.sort(key=lambda commit: (commit.seq_first, commit.seq_last))
        _check_epoch(commits, summary)
    for path, queue in exports:
        _check_export(path, queue, epochs.get((queue.key, queue.epoch), []), summary)
    return summary


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}); correct the name.") from error


def _is_export(data: bytes) -> bool:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("format") == EXPORT_FORMAT


def _commits(path: Path, data: bytes) -> Iterable[LoggedCommit]:
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield load_commit(line)
        except InvalidInput as error:
            raise InvalidInput(
                f"Line {number} of {path} {error.message}; take the line out to replay the rest."
            ) from error


def _check_epoch(commits: Sequence[LoggedCommit], summary: Summary) -> None:
    """`commits` of one epoch in seq order. Raises `InvalidInput` at the first difference."""
    window, upcoming = commits[0].window, 1
    history: deque[float] = deque(maxlen=window)
    before: LoggedCommit | None = None
    for commit in commits:
        if commit == before:
            summary.duplicates += 1
            continue
        if commit.seq_first < upcoming:
            raise InvalidInput(f"{_name(commit)}: another commit holds some of the same entries.")
        if commit.window != window:
            raise InvalidInput(f"{_name(commit)}: its window is {commit.window}, and {window} before it.")
        if commit.seq_first > upcoming:
            summary.gaps.append(Gap(commit.key.name, commit.epoch, upcoming, commit.seq_first - 1))
            history.clear()
        history.extend(commit.scores)
        summary.unchecked += not _check_stats(commit, history)
        summary.commits += 1
        summary.scores += len(commit.scores)
        before, upcoming = commit, commit.seq_last + 1


def _check_stats(commit: LoggedCommit, history: deque[float]) -> bool:
    """Whether the whole window is known, and its statistics are those that were answered."""
    count = min(commit.seq_last, commit.window)
    if commit.stats.count != count:
        raise InvalidInput(f"{_name(commit)}: the window held {count} scores, the log says {commit.stats.count}.")
    if len(history) < count:
        return False
    derived = window_stats(tuple(history))
    for figure, again, logged in (
        ("mean", derived.mean, commit.stats.mean),
        ("standard deviation", derived.std, commit.stats.std),
    ):
        if repr(again) != repr(logged):
            raise InvalidInput(f"{_name(commit)}: the {figure} comes out as {again!r}, the log says {logged!r}.")
    return True


def _check_export(path: Path, queue: Queue, commits: Sequence[LoggedCommit], summary: Summary) -> None:
    """Compare the export's scores with the logged ones of the same seq; what no log holds is a gap."""
    logged = {commit.seq_first + i: score for commit in commits for i, score in enumerate(commit.scores)}
    first = queue.seq_last - len(queue.scores) + 1
    missing: list[int] = []
    for seq, score in (*enumerate(queue.reference, 1), *enumerate(queue.scores, first)):
        if seq not in logged:
            missing.append(seq)
        elif repr(logged[seq]) != repr(score):
            raise InvalidInput(
                f"{path}: entry {seq} of queue {queue.key.name}, epoch {queue.epoch}, is {score!r}, "
                f"the log says {logged[seq]!r}."
            )
        else:
            summary.exported_scores += 1
    if missing and min(missing) > (commits[-1].seq_last if commits else 0):
        summary.gaps.append(Gap(queue.key.name, queue.epoch, min(missing), max(missing)))


def _name(commit: LoggedCommit) -> str:
    return f"Entries {commit.seq_first} to {commit.seq_last} of queue {commit.key.name}, epoch {commit.epoch}"
