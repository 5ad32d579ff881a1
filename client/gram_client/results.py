"""What comes back, frozen and typed. Fields that a newer service adds are ignored; a missing or impossible one is a
`MalformedReply`. Numbers of a failed item are None, and a number that is there is finite.

Probabilities are in [0, 1], margins in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gram_client.errors import ScoringError, error_of_code
from gram_client.fields import Fields

Status = Literal["ok", "failed"]


@dataclass(frozen=True)
class Usage:
    """Tokens and judged pairs."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    comparisons: int = 0

    @classmethod
    def of(cls, fields: Fields) -> Usage:
        names = ("prompt_tokens", "cached_tokens", "completion_tokens", "comparisons")
        return cls(*(fields.whole(name) for name in names))

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.comparisons + other.comparisons,
        )


NO_USAGE = Usage()


@dataclass(frozen=True)
class JudgeVersion:
    """Which judge answered: scores of different versions are not comparable."""

    judge: str
    weight_version: str
    template_hash: str

    @classmethod
    def of(cls, fields: Fields) -> JudgeVersion:
        return cls(fields.text("judge"), fields.text("weight_version"), fields.text("template_hash"))


@dataclass(frozen=True)
class Flag:
    """Something suspicious in a text, how often and where."""

    code: str
    count: int
    where: str

    @classmethod
    def of(cls, fields: Fields) -> Flag:
        return cls(fields.text("code"), fields.whole("count"), fields.text("where"))


@dataclass(frozen=True)
class ItemError:
    """Why one item has no numbers."""

    code: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, fields: Fields) -> ItemError:
        return cls(fields.text("code"), fields.text("message"), fields.truth("retryable"))

    @classmethod
    def from_error(cls, error: ScoringError, message: str) -> ItemError:
        """Of an item that `error` refused, with the item's own message."""
        return cls(error.code, message, bool(error.retryable))

    def raised(self) -> ScoringError:
        """As an exception, for callers who want one."""
        return error_of_code(self.code, self.message, self.retryable)


@dataclass(frozen=True)
class Votes:
    a: int
    b: int
    invalid: int
    skipped: int

    @classmethod
    def of(cls, fields: Fields) -> Votes:
        return cls(*(fields.whole(name) for name in ("a", "b", "invalid", "skipped")))


@dataclass(frozen=True)
class Verdict:
    """``p_first`` = P(a better) over both display orders; ``p_ab``: P(a better) with a shown first, ``p_ba``: P(b
    better) with b shown first. ``label_mass`` is None where nothing was asked. Failed: every number is None."""

    status: Status
    p_first: float | None = None
    margin: float | None = None
    preferred: Literal["a", "b", "tie"] | None = None
    p_ab: float | None = None
    p_ba: float | None = None
    consistent: bool | None = None
    label_mass: float | None = None
    votes: Votes | None = None
    flags: tuple[Flag, ...] = ()
    usage: Usage = NO_USAGE
    judge_version: JudgeVersion | None = None
    id: str | None = None
    error: ItemError | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @classmethod
    def failed(cls, error: ItemError, item_id: str | None = None) -> Verdict:
        return cls("failed", error=error, id=item_id)

    @classmethod
    def of(cls, fields: Fields) -> Verdict:
        return cls(**verdict_fields(fields))

    @classmethod
    def from_json(cls, data: Any) -> Verdict:
        """Raises `MalformedReply`."""
        return cls.of(Fields(data, "a verdict"))


def verdict_fields(fields: Fields) -> dict[str, Any]:
    """The fields of a `Verdict`, which a `Rationale` has too."""
    found: dict[str, Any] = {
        "status": fields.one_of("status", ("ok", "failed")),
        "id": fields.text_or_none("id"),
        "usage": Usage.of(fields.inside("usage")),
        "judge_version": JudgeVersion.of(fields.inside("judge_version")),
    }
    if found["status"] == "failed":
        return found | {"error": ItemError.of(fields.inside("error"))}
    votes = fields.inside_or_none("votes")
    return found | {
        "p_first": fields.share("p_first"),
        "margin": fields.number("margin"),
        "preferred": fields.one_of("preferred", ("a", "b", "tie")),
        "p_ab": fields.share("p_ab"),
        "p_ba": fields.share("p_ba"),
        "consistent": fields.truth("consistent"),
        "label_mass": fields.number_or_none("label_mass"),
        "votes": None if votes is None else Votes.of(votes),
        "flags": tuple(map(Flag.of, fields.many("flags"))),
    }


@dataclass(frozen=True)
class Reason:
    """One written judgment; ``probability`` is P(a better) read at its verdict. ``sections`` are the family's own."""

    order: Literal["ab", "ba"]
    vote: int
    text: str
    sections: Mapping[str, str]
    verdict: Literal["a", "b", "invalid"]
    probability: float | None
    finish_reason: str
    forced: bool
    tokens: int

    @classmethod
    def of(cls, fields: Fields) -> Reason:
        return cls(
            fields.one_of("order", ("ab", "ba")),
            fields.whole("vote"),
            fields.text("text"),
            fields.texts("sections"),
            fields.one_of("verdict", ("a", "b", "invalid")),
            fields.number_or_none("probability"),
            fields.text("finish_reason"),
            fields.truth("forced"),
            fields.whole("tokens"),
        )


@dataclass(frozen=True)
class Rationale(Verdict):
    """A verdict with the judge's own words."""

    rationales: tuple[Reason, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> Rationale:
        return cls(**verdict_fields(fields), rationales=tuple(map(Reason.of, fields.many("rationales"))))

    @classmethod
    def from_json(cls, data: Any) -> Rationale:
        return cls.of(Fields(data, "a rationale"))


@dataclass(frozen=True)
class Ranked:
    """A response's place, 0 = best; ``strength`` and ``stderr`` where the method fits a Bradley-Terry model."""

    index: int
    rank: int
    score: float
    strength: float | None
    stderr: float | None
    flags: tuple[Flag, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> Ranked:
        strength, stderr = fields.number_or_none("strength"), fields.number_or_none("stderr")
        flags = tuple(map(Flag.of, fields.many("flags"))) if fields.raw("flags") is not None else ()
        return cls(fields.whole("index"), fields.whole("rank"), fields.number("score"), strength, stderr, flags)


@dataclass(frozen=True)
class Ranking:
    """``order`` are indices of the responses, best first; ``results`` lie in the order of the responses."""

    order: tuple[int, ...]
    best: int
    results: tuple[Ranked, ...]
    win_matrix: tuple[tuple[float | None, ...], ...] | None
    comparisons: int
    stopped: str
    consistency: float | None
    usage: Usage
    judge_version: JudgeVersion

    @property
    def scores(self) -> list[float]:
        """In the order of the responses."""
        return [one.score for one in sorted(self.results, key=lambda one: one.index)]

    @classmethod
    def from_json(cls, data: Any, count: int) -> Ranking:
        """Of `count` responses. Raises `MalformedReply`."""
        fields = Fields(data, "a ranking")
        order = fields.wholes("ranking")
        results = tuple(map(Ranked.of, fields.many("results")))
        found = sorted(order) == sorted(one.index for one in results) == list(range(count))
        fields.expect(found and fields.whole("best") == order[0], "ranks other responses than were sent")
        return cls(
            order,
            order[0],
            results,
            fields.matrix_or_none("win_matrix"),
            fields.whole("comparisons"),
            fields.text("stopped"),
            fields.number_or_none("consistency"),
            Usage.of(fields.inside("usage")),
            JudgeVersion.of(fields.inside("judge_version")),
        )
