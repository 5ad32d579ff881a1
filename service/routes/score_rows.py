"""Rows of /score and what becomes of them: scores drafted, then turned into rewards by one commit."""

from __future__ import annotations

from service.errors import InvalidInput, ServiceError
from service.judge import Judge
from service.rewards import Keyed, Normalization, RewardDesk, Rewarded, rewarded
from service.schemas.replies import FlagOut, ItemError, QueueOut, ScoreReply, ScoreRow
from service.schemas.requests import Normalize
from service.schemas.wire import dumped
from service.scoring import Score
from service.stores.base import CommitResult, QueueKey

Outcome = Score | ServiceError


def row_of(outcome: Outcome, item_id: str | None, group: int | None = None, index: int | None = None) -> ScoreRow:
    """A row without its reward, or one that failed and has no numbers."""
    if isinstance(outcome, ServiceError):
        return ScoreRow(id=item_id, group=group, index=index, status="failed", error=ItemError.of(outcome))
    return ScoreRow(
        id=item_id,
        group=group,
        index=index,
        status="ok",
        score=outcome.score,
        margin=outcome.margin,
        consistent=outcome.consistent,
        flags=FlagOut.all_of(outcome.flags),
    )


def normalization(wanted: Normalize | None, judge: Judge, kind: str) -> Normalization | None:
    """What `normalize` asks for, with the queue's whole key; None: rewards are the scores."""
    if wanted is None:
        return None
    version = judge.version
    key = QueueKey(wanted.queue, judge.name, version.weight_version, version.template_hash, kind)
    return Normalization(key, wanted.window, wanted.scale, wanted.update, wanted.min_count, wanted.clip)


async def with_rewards(
    reply: ScoreReply, asked: Normalization | None, keyed: Keyed | None, desk: RewardDesk
) -> ScoreReply:
    """The drafted reply with rewards, its scores entered into the queue. A retry under the same key gets the draft and
    the numbers of the first commit. Raises what `RewardDesk.reward` raises."""
    if asked is None:
        return _unnormalized(reply)
    scores = [row.score for row in reply.results if row.score is not None]
    if keyed is None:  # nothing is kept, so no draft need be written and read again
        result, _ = await desk.reward(scores, asked, None, b"")
        return _with_rewards(reply, result, asked)
    result, draft = await desk.reward(scores, asked, keyed, dumped(reply))
    return _with_rewards(ScoreReply.model_validate_json(draft), result, asked)


def resumed(commit: CommitResult, asked: Normalization | None) -> bytes:
    """The reply of a request that was cut off after its commit. Raises `InvalidInput`."""
    if asked is None or commit.draft is None:
        raise InvalidInput("This idempotency key belongs to another kind of request; send a new key.")
    return dumped(_with_rewards(ScoreReply.model_validate_json(commit.draft), rewarded(commit, asked), asked))


def _unnormalized(reply: ScoreReply) -> ScoreReply:
    """Without a queue the reward is the score, and nothing is clipped."""
    for row in reply.results:
        if row.score is not None:
            row.reward, row.clipped = row.score, False
    return reply


def _with_rewards(reply: ScoreReply, result: Rewarded, asked: Normalization) -> ScoreReply:
    """The drafted rows with the rewards of those that have a score, in order."""
    rewards = iter(result.normalized.rewards)
    rows = []
    for row in reply.results:
        if row.score is not None:
            reward = next(rewards)
            row = row.model_copy(update={"reward": reward.reward, "clipped": reward.clipped})
        rows.append(row)
    queue = QueueOut(
        name=asked.key.name,
        epoch=result.epoch,
        seq_first=result.seq_first,
        seq_last=result.seq_last,
        count=result.stats.count,
        mean=result.stats.mean,
        std=result.stats.std,
        normalized=result.normalized.normalized,
        degenerate=result.normalized.degenerate,
    )
    return reply.model_copy(update={"results": rows, "queue": queue})
