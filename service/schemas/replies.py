"""What goes out. Numbers of a failed item are null; they are never replaced by a number that looks like a judgment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from service.errors import ServiceError
from service.types import (
    FinishReason,
    Flag,
    JudgeVersion,
    OnBudget,
    Ranking,
    Rationale,
    Usage,
    Verdict,
    Where,
)


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class UsageOut(_Reply):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    comparisons: int

    @classmethod
    def of(cls, usage: Usage) -> UsageOut:
        return cls(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            comparisons=usage.comparisons,
        )


class JudgeVersionOut(_Reply):
    judge: str
    weight_version: str
    template_hash: str

    @classmethod
    @lru_cache(256)
    def of(cls, version: JudgeVersion) -> JudgeVersionOut:
        """The same object for every reply of a judge: it says the same in all of them."""
        return cls(judge=version.judge, weight_version=version.weight_version, template_hash=version.template_hash)


class FlagOut(_Reply):
    code: str
    count: int
    where: Where

    @classmethod
    def all_of(cls, flags: Sequence[Flag]) -> list[FlagOut]:
        return [cls(code=flag.code, count=flag.count, where=flag.where) for flag in flags]


class ItemError(_Reply):
    """Why one item of a batch has no numbers."""

    code: str
    message: str
    retryable: bool
    details: dict[str, str | int | float | bool | None] | None = None

    @classmethod
    def of(cls, error: ServiceError) -> ItemError:
        return cls(code=error.code, message=error.message, retryable=error.retryable, details=error.details or None)


class ErrorDetail(_Reply):
    code: str
    message: str
    request_id: str
    retryable: bool
    details: dict[str, Any] | None = None


class ErrorReply(_Reply):
    """Every reply that is not a success."""

    error: ErrorDetail


class VotesOut(_Reply):
    a: int
    b: int
    invalid: int
    skipped: int


class VerdictReply(_Reply):
    """``p_ab``: P(a better) with a shown first; ``p_ba``: P(b better) with b shown first; ``margin`` in nats."""

    id: str | None = None
    status: Literal["ok", "failed"]
    p_first: float | None = None
    margin: float | None = None
    preferred: Literal["a", "b", "tie"] | None = None
    p_ab: float | None = None
    p_ba: float | None = None
    consistent: bool | None = None
    label_mass: float | None = None
    votes: VotesOut | None = None
    flags: list[FlagOut] = []
    usage: UsageOut
    judge_version: JudgeVersionOut
    error: ItemError | None = None


class ReferencesReply(_Reply):
    """``stored``: prompts of this request; ``total``: prompts that have a reference now."""

    stored: int
    total: int


class CompareBatchReply(_Reply):
    results: list[VerdictReply]
    usage: UsageOut
    judge_version: JudgeVersionOut


class RationaleOut(_Reply):
    """``probability`` is P(a better) read at the verdict; ``sections`` are the parts of the family's own grammar.

    ``finish_reason``: the judge ended the text (``stop``), or it was cut at its budget (``length``) or because it went
    round in circles (``repetition``). ``forced``: a text cut at its budget was ended for the judge, who was then asked
    for its letter. ``tokens`` were generated.
    """

    order: Literal["ab", "ba"]
    vote: int
    text: str
    sections: dict[str, str]
    verdict: Literal["a", "b", "invalid"]
    probability: float | None
    finish_reason: FinishReason
    forced: bool
    tokens: int

    @classmethod
    def of(cls, rationale: Rationale) -> RationaleOut:
        return cls(
            order=rationale.order,
            vote=rationale.vote,
            text=rationale.text,
            sections=dict(rationale.sections),
            verdict=rationale.verdict,
            probability=rationale.probability,
            finish_reason=rationale.finish_reason,
            forced=rationale.forced,
            tokens=rationale.tokens,
        )


class RationaleReply(VerdictReply):
    rationales: list[RationaleOut]


class RankedOut(_Reply):
    index: int
    rank: int
    score: float
    strength: float | None
    stderr: float | None
    flags: list[FlagOut] = []


class RankReply(_Reply):
    """``ranking`` lists indices, best first; ``win_matrix[i][j]`` is P(i better than j), null if not judged."""

    ranking: list[int]
    best: int
    results: list[RankedOut]
    win_matrix: list[list[float | None]] | None
    comparisons: int
    stopped: Literal["decided", "budget", "complete"]
    consistency: float | None
    usage: UsageOut
    judge_version: JudgeVersionOut


class QueueOut(_Reply):
    """The statistics that made the rewards. ``seq_first .. seq_last`` are this request's entries, null without any."""

    name: str
    epoch: str | None
    seq_first: int | None
    seq_last: int | None
    count: int
    mean: float
    std: float
    normalized: bool
    degenerate: bool


class ScoreRow(_Reply):
    """``score`` is the judge's; ``reward`` is what to train on. Null where the judgment failed, never a stand-in.

    ``queue`` is set only where a request holds members of several cohorts, each with a commit of its own.
    """

    id: str | None = None
    group: int | None = None
    index: int | None = None
    status: Literal["ok", "failed"]
    score: float | None = None
    reward: float | None = None
    margin: float | None = None
    consistent: bool | None = None
    clipped: bool | None = None
    flags: list[FlagOut] = []
    queue: QueueOut | None = None
    error: ItemError | None = None


class ScoreReply(_Reply):
    results: list[ScoreRow]
    queue: QueueOut | None = None
    usage: UsageOut
    judge_version: JudgeVersionOut


class QueueStateOut(_Reply):
    """One reward window. Different judges, weights, templates or kinds of score never share one."""

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


class QueuesReply(_Reply):
    queues: list[QueueStateOut]


class QueueDeleteReply(_Reply):
    deleted: int


class JudgeLimits(_Reply):
    """Tokens of a rendered prompt, and of a rationale (0: writes none); what becomes of a rationale at its limit."""

    max_prompt_tokens: int
    max_rationale_tokens: int
    on_budget: OnBudget


class JudgeOut(_Reply):
    name: str
    family: str
    template: str
    model: str
    adapter: str | None
    weight_version: str
    template_hash: str
    writes_rationale: bool
    scalar: bool
    default: bool
    limits: JudgeLimits


class ModelsReply(_Reply):
    engine: str
    dtype: str
    judges: list[JudgeOut]


class HealthReply(_Reply):
    status: Literal["ok"] = "ok"


def verdict_fields(verdict: Verdict, version: JudgeVersion, item_id: str | None = None) -> dict[str, Any]:
    """The fields of a good verdict, for `VerdictReply` and `RationaleReply`."""
    votes = verdict.votes
    return {
        "id": item_id,
        "status": "ok",
        "p_first": verdict.p_first,
        "margin": verdict.margin,
        "preferred": verdict.preferred,
        "p_ab": verdict.p_ab,
        "p_ba": verdict.p_ba,
        "consistent": verdict.consistent,
        "label_mass": verdict.label_mass,
        "votes": votes and VotesOut(a=votes.a, b=votes.b, invalid=votes.invalid, skipped=votes.skipped),
        "flags": FlagOut.all_of(verdict.flags),
        "usage": UsageOut.of(verdict.usage),
        "judge_version": JudgeVersionOut.of(version),
    }


def verdict_reply(outcome: Verdict | ServiceError, version: JudgeVersion, item_id: str | None) -> VerdictReply:
    """One row of a batch: a verdict, or a failure without numbers."""
    if isinstance(outcome, ServiceError):
        return VerdictReply(
            id=item_id,
            status="failed",
            usage=UsageOut.of(Usage()),
            judge_version=JudgeVersionOut.of(version),
            error=ItemError.of(outcome),
        )
    return VerdictReply(**verdict_fields(outcome, version, item_id))


def written_details(rationales: Sequence[Rationale]) -> dict[str, Any]:
    """For the details of an error: what was written although it holds no verdict for both orders."""
    return {"rationales": [RationaleOut.of(rationale).model_dump(mode="json") for rationale in rationales]}


def rationale_reply(verdict: Verdict, version: JudgeVersion) -> RationaleReply:
    rationales = [RationaleOut.of(rationale) for rationale in verdict.rationales]
    return RationaleReply(**verdict_fields(verdict, version), rationales=rationales)


def rank_reply(ranking: Ranking, usage: Usage, version: JudgeVersion, flags: Sequence[tuple[Flag, ...]]) -> RankReply:
    """``flags``: what was found in each response, in input order."""
    order = list(ranking.order)
    return RankReply(
        ranking=order,
        best=order[0],
        results=[
            RankedOut(
                index=r.index,
                rank=r.rank,
                score=r.score,
                strength=r.strength,
                stderr=r.stderr,
                flags=FlagOut.all_of(flags[r.index]),
            )
            for r in ranking.results
        ],
        win_matrix=ranking.win_matrix and [list(row) for row in ranking.win_matrix],
        comparisons=ranking.comparisons,
        stopped=ranking.stopped,
        consistency=ranking.consistency,
        usage=UsageOut.of(usage),
        judge_version=JudgeVersionOut.of(version),
    )
