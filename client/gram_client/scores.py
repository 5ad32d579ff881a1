"""Rows of /score, and the reward queues they enter. As in `results`: a failed row has no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gram_client.fields import Fields
from gram_client.results import NO_USAGE, Flag, ItemError, JudgeVersion, Status, Usage


@dataclass(frozen=True)
class QueueState:
    """The statistics that made the rewards. ``seq_first .. seq_last`` are this request's own entries."""

    name: str
    epoch: str | None
    seq_first: int | None
    seq_last: int | None
    count: int
    mean: float
    std: float
    normalized: bool
    degenerate: bool

    @classmethod
    def of(cls, fields: Fields) -> QueueState:
        return cls(
            fields.text("name"),
            fields.text_or_none("epoch"),
            fields.whole_or_none("seq_first"),
            fields.whole_or_none("seq_last"),
            fields.whole("count"),
            fields.number("mean"),
            fields.number("std"),
            fields.truth("normalized"),
            fields.truth("degenerate"),
        )


@dataclass(frozen=True)
class Row:
    """One response. ``score`` is the judge's, ``reward`` what to train on; both None where the judgment failed.

    ``group`` counts the groups of the call, ``index`` the responses of the group. ``queue`` is set only where one call
    holds members of several cohorts.
    """

    status: Status
    score: float | None = None
    reward: float | None = None
    margin: float | None = None
    consistent: bool | None = None
    clipped: bool | None = None
    flags: tuple[Flag, ...] = ()
    group: int | None = None
    index: int | None = None
    id: str | None = None
    queue: QueueState | None = None
    error: ItemError | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @classmethod
    def failed(
        cls, error: ItemError, item_id: str | None = None, group: int | None = None, index: int | None = None
    ) -> Row:
        return cls("failed", error=error, id=item_id, group=group, index=index)

    @classmethod
    def of(cls, fields: Fields) -> Row:
        place: dict[str, Any] = {
            "group": fields.whole_or_none("group"),
            "index": fields.whole_or_none("index"),
            "id": fields.text_or_none("id"),
        }
        if fields.one_of("status", ("ok", "failed")) == "failed":
            return cls("failed", error=ItemError.of(fields.inside("error")), **place)
        queue = fields.inside_or_none("queue")
        return cls(
            "ok",
            fields.number("score"),
            fields.number("reward"),
            fields.number_or_none("margin"),
            fields.truth_or_none("consistent"),
            fields.truth_or_none("clipped"),
            tuple(map(Flag.of, fields.many("flags"))),
            queue=None if queue is None else QueueState.of(queue),
            **place,
        )


@dataclass(frozen=True)
class Scores:
    """Rows in the order of what was sent, responses of a group one after the other.

    ``judge_versions`` are the versions that answered: more than one where the judge changed between two chunks.
    """

    rows: tuple[Row, ...] = ()
    queue: QueueState | None = None
    usage: Usage = NO_USAGE
    judge_versions: tuple[JudgeVersion, ...] = ()

    @property
    def judge_version(self) -> JudgeVersion | None:
        """The version that answered; None where nothing was judged."""
        return self.judge_versions[0] if self.judge_versions else None

    @property
    def rewards(self) -> list[float | None]:
        """One for each response; None where the judgment failed."""
        return [row.reward for row in self.rows]

    @property
    def scores(self) -> list[float | None]:
        """One for each response; None where the judgment failed."""
        return [row.score for row in self.rows]

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]

    def by_group(self) -> list[list[Row]]:
        """The rows of each group, in the order of the groups; for scored groups and cohorts."""
        groups: dict[int, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(-1 if row.group is None else row.group, []).append(row)
        return [groups[number] for number in sorted(groups)]

    def raise_failures(self) -> Scores:
        """Itself. Raises the error of the first row that failed."""
        for row in self.rows:
            if row.error is not None:
                raise row.error.raised()
        return self

    @classmethod
    def from_json(cls, data: Any) -> Scores:
        """Raises `MalformedReply`."""
        fields = Fields(data, "scores")
        queue = fields.inside_or_none("queue")
        return cls(
            tuple(map(Row.of, fields.many("results"))),
            None if queue is None else QueueState.of(queue),
            Usage.of(fields.inside("usage")),
            (JudgeVersion.of(fields.inside("judge_version")),),
        )


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of one call's chunks, in order."""
    if len(parts) == 1:
        return parts[0]
    rows = tuple(row for part in parts for row in part.rows)
    versions = dict.fromkeys(version for part in parts for version in part.judge_versions)
    return Scores(rows, None, sum((part.usage for part in parts), NO_USAGE), tuple(versions))
