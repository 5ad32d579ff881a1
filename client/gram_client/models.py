"""Judges of a service, and its reward queues as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gram_client.fields import Fields


@dataclass(frozen=True)
class Judge:
    """One configured judge. Limits are in tokens; ``max_rationale_tokens`` 0: it writes none."""

    name: str
    family: str
    model: str
    adapter: str | None
    weight_version: str
    template_hash: str
    writes_rationale: bool
    scalar: bool
    default: bool
    max_prompt_tokens: int
    max_rationale_tokens: int

    @classmethod
    def of(cls, fields: Fields) -> Judge:
        limits = fields.inside("limits")
        return cls(
            fields.text("name"),
            fields.text("family"),
            fields.text("model"),
            fields.text_or_none("adapter"),
            fields.text("weight_version"),
            fields.text("template_hash"),
            fields.truth("writes_rationale"),
            fields.truth("scalar"),
            fields.truth("default"),
            limits.whole("max_prompt_tokens"),
            limits.whole("max_rationale_tokens"),
        )


@dataclass(frozen=True)
class Models:
    engine: str
    dtype: str
    judges: tuple[Judge, ...]

    @property
    def default(self) -> Judge:
        """The judge of requests that name none."""
        return next(judge for judge in self.judges if judge.default)

    @classmethod
    def from_json(cls, data: Any) -> Models:
        """Raises `MalformedReply`."""
        fields = Fields(data, "models")
        judges = tuple(map(Judge.of, fields.many("judges")))
        fields.expect(sum(judge.default for judge in judges) == 1, "have no default judge, or several")
        return cls(fields.text("engine"), fields.text("dtype"), judges)


@dataclass(frozen=True)
class Queue:
    """One reward window. ``health`` is what the service says of its scores (docs/metrics.md), where it was asked."""

    name: str
    judge: str
    weight_version: str
    template_hash: str
    score_kind: str
    epoch: str
    window: int
    seq_last: int
    count: int
    mean: float
    std: float
    health: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, fields: Fields) -> Queue:
        health = fields.raw("health")
        return cls(
            fields.text("name"),
            fields.text("judge"),
            fields.text("weight_version"),
            fields.text("template_hash"),
            fields.text("score_kind"),
            fields.text("epoch"),
            fields.whole("window"),
            fields.whole("seq_last"),
            fields.whole("count"),
            fields.number("mean"),
            fields.number("std"),
            health if isinstance(health, dict) else None,
        )
