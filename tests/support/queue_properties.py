"""Properties Q1 .. Q9 and Q13 of reward queues: what each promises, as a check of one open store.

The contract suite runs every one of them on every store; `tests/contract/test_defects.py` runs the same functions on
stores that are wrong on purpose. Full counts stand in each `bar`.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.errors import Conflict, ServiceError
from service.normalization import MAX_ABS_SCORE
from service.rewards import Keyed
from service.stores.base import MAX_WINDOW, IdempotencyRecord, QueueKey, RewardStore
from tests.support.properties import bar, count
from tests.support.queue_bench import Bench
from tests.support.reference import expected_stats, same_bits

SCORES = st.floats(-MAX_ABS_SCORE, MAX_ABS_SCORE)
BATCHES = st.lists(SCORES, min_size=1, max_size=12)
ANY_VALUE = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, -0.0, 5e-324, 10**400, 1e6, -1e6]),
)


def q1_statistics_are_exact(bench: Bench) -> None:
    """Bit for bit those of the last N scores, for any batches and window; and what can be read afterwards agrees."""

    @bar(10_000)
    @given(st.lists(BATCHES, min_size=1, max_size=8), st.integers(1, 40))
    def check(batches: list[list[float]], window: int) -> None:
        key, history = bench.key(), []
        for batch in batches:
            history += batch
            result = bench.commit(key, batch, window)
            assert same_bits(result.stats, expected_stats(history, window))
            assert result.seq_last == len(history)
        state, queue = bench.run(bench.store.peek(key)), bench.run(bench.store.get(key))
        assert state is not None
        assert queue is not None
        assert same_bits(state.stats, result.stats)
        assert (state.window, state.seq_last, state.epoch) == (window, len(history), result.epoch)
        assert queue.scores == tuple(history[-window:])
        bench.run(bench.store.delete(key))

    check()


def q2_order_inside_the_window_does_not_matter(bench: Bench) -> None:
    """The same scores in another order and cut into other batches: the same statistics, bit for bit."""

    @bar(5_000)
    @given(st.lists(SCORES, min_size=1, max_size=40), st.randoms(use_true_random=False))
    def check(scores: list[float], shuffler: random.Random) -> None:
        key, other = bench.key(), bench.key()
        before = bench.commit(key, scores)
        shuffled = shuffler.sample(scores, len(scores))
        at = shuffler.randint(0, len(scores) - 1)
        for batch in (shuffled[:at], shuffled[at:]):
            after = bench.commit(other, batch) if batch else None
        assert after is not None
        assert same_bits(before.stats, after.stats)
        forget(bench, key, other)

    check()


def q3_any_input_is_refused_or_counted_finitely(bench: Bench) -> None:
    """Refused with the state unchanged, or finite statistics with a variance that is one."""
    key = bench.key()
    bench.commit(key, [0.25, 0.75])

    @bar(20_000)
    @given(st.lists(ANY_VALUE, max_size=4), st.sampled_from([100, 100, 100, 0, -1, 99, MAX_WINDOW + 1]))
    def check(values: list[float], window: int) -> None:
        before = bench.digest(key)
        try:
            result = bench.commit(key, values, window)
        except ServiceError:
            assert bench.digest(key) == before
            return
        assert window == 100
        assert values
        assert all(type(value) is float and abs(value) <= MAX_ABS_SCORE for value in values)
        assert math.isfinite(result.stats.mean)
        assert math.isfinite(result.stats.std)
        assert result.stats.std >= 0.0

    check()


def q4_a_repeated_request_counts_once(bench: Bench) -> None:
    """k retries, other commits between them, cut anywhere: one entry, one reply; another body is refused."""

    @bar(5_000)
    @given(BATCHES, st.lists(st.sampled_from(["cut before", "cut after", "whole", "other"]), min_size=1, max_size=20))
    def check(batch: list[float], tries: list[str]) -> None:
        key, record = bench.key(), bench.record()
        replies, others = set(), 0
        for number, how in enumerate([*tries, "whole"]):
            if how == "other":
                bench.commit(key, [0.5])
                others += 1
                continue
            reply = bench.run(request(bench.store, key, batch, replace(record, draft=b"%d" % number), how))
            replies |= {reply} - {None}
        assert len(replies) == 1
        state = bench.run(bench.store.peek(key))
        assert state is not None
        assert state.seq_last == len(batch) + others
        before = bench.digest(key)
        with pytest.raises(Conflict):
            bench.run(bench.store.begin(record.key, "another body"))
        with pytest.raises(Conflict):
            bench.run(bench.store.commit(key, batch, 100, replace(record, body_hash="another body")))
        with pytest.raises(Conflict):
            bench.run(bench.store.finish(record.key, "another body", b"reply"))
        assert bench.digest(key) == before

    check()


async def request(
    store: RewardStore, key: QueueKey, scores: list[float], record: IdempotencyRecord, cut: str = "whole"
) -> bytes | None:
    """One keyed request as the service makes it; a retry's draft differs, as sampled judgments would. None: cut off."""
    known = await store.begin(record.key, record.body_hash)
    if known is not None and known.reply is not None:
        return known.reply
    if cut == "cut before":
        return None
    result = known.commit if known is not None else None
    if result is None:
        await asyncio.sleep(0)  # the judge
        result = await store.commit(key, scores, 100, record)
    if cut == "cut after":
        return None
    draft = record.draft if result.draft is None else result.draft
    reply = repr((draft, result.epoch, result.seq_first, result.seq_last, result.stats, result.scores)).encode()
    return await store.finish(record.key, record.body_hash, reply)


def q5_queues_do_not_touch_each_other(bench: Bench) -> None:
    """Whatever happens to one queue, another one's bytes stay."""
    mine = bench.key()
    bench.commit(mine, [0.1, 0.2])
    before = bench.digest(mine)

    @bar(5_000)
    @given(BATCHES, st.sampled_from(["commit", "keyed", "delete", "import", "refused"]))
    def check(batch: list[float], action: str) -> None:
        other = bench.key()
        bench.run(bench.store.commit(other, batch, 10, bench.record() if action == "keyed" else None))
        exported = bench.digest(other)
        if action in ("delete", "import"):
            bench.run(bench.store.delete(other))
        if action == "import":
            bench.run(bench.store.import_(exported))
        if action == "refused":
            with pytest.raises(ServiceError):
                bench.commit(other, [math.nan], 10)
        assert bench.digest(mine) == before

    check()


def q5_any_change_of_the_key_is_another_queue(bench: Bench) -> None:
    """Name, judge, weights, template and kind of score each make a queue of their own."""
    for part in ("name", "judge", "weight_version", "template_hash", "score_kind"):
        key = bench.key()
        other = replace(key, **{part: f"other {key.name}"})
        bench.commit(key, [0.5])
        before = bench.digest(key)
        assert bench.commit(other, [0.7]).seq_first == 1
        assert bench.digest(key) == before
        count()


def q6_reading_writes_nothing(bench: Bench) -> None:
    """``update: false`` and every other reader leave every byte as it was."""

    @bar(5_000)
    @given(BATCHES)
    def check(batch: list[float]) -> None:
        key, unknown = bench.key(), bench.key()
        result = bench.commit(key, batch)
        before = bench.digest(key, unknown)
        state = bench.run(bench.store.peek(key))
        assert state is not None
        assert same_bits(state.stats, result.stats)
        assert bench.run(bench.store.peek(unknown)) is None
        assert bench.run(bench.store.get(unknown)) is None
        assert bench.run(bench.store.begin("unknown", "body")) is None
        bench.run(bench.store.list_queues(key.name))
        bench.run(bench.store.ping())
        evaluated = bench.reward(key, batch, update=False)
        assert same_bits(evaluated.stats, result.stats)
        assert (evaluated.seq_first, evaluated.seq_last) == (None, None)
        bench.reward(unknown, batch, update=False)
        assert bench.digest(key, unknown) == before
        assert bench.commit(key, [0.5]).seq_first == len(batch) + 1

    check()


def q6_keyed_evaluations_write_no_score(bench: Bench) -> None:
    """An evaluation with an idempotency key leaves the window alone as well."""
    key = bench.key()
    bench.commit(key, [0.25, 0.75])
    before = bench.digest(key)
    evaluated = bench.reward_keyed(key, [0.5, 0.9], Keyed("evaluation", "body"), update=False)
    assert evaluated.stats.count == 2
    assert bench.digest(key) == before
    count()


def q7_cold_start_ends_exactly_at_min_count(bench: Bench) -> None:
    """The request that brings the window to min_count is the first to be normalized; windows of one and two."""
    for min_count in (2, 3, 16, 100):
        for entries in (min_count - 1, min_count, min_count + 1):
            key = bench.key()
            if entries > 1:
                bench.commit(key, [0.5] * (entries - 1), window=200)
            rewarded = bench.reward(key, [1.0], window=200, min_count=min_count)
            assert rewarded.normalized.normalized == (entries >= min_count)
            if entries < min_count:
                assert rewarded.normalized.rewards[0].reward == 1.0
            count()
    alone = bench.reward(bench.key(), [0.7]).normalized
    assert (alone.rewards[0].reward, alone.degenerate, alone.normalized) == (0.0, True, True)
    two = bench.reward(bench.key(), [0.25, 0.75]).normalized
    assert [reward.reward for reward in two.rewards] == [-1.0, 1.0]
    count(2)


def q8_a_constant_window_is_degenerate(bench: Bench) -> None:
    """No spread: every reward is 0.0, and the reply says why."""

    @bar(1_000)
    @given(SCORES, st.integers(1, 60), st.integers(1, 60))
    def check(score: float, entries: int, window: int) -> None:
        key = bench.key()
        normalized = bench.reward(key, [score] * entries, window=window, scale=10.0).normalized
        assert normalized.degenerate
        assert {reward.reward for reward in normalized.rewards} == {0.0}
        forget(bench, key)

    check()


def q9_rewards_do_not_know_units(bench: Bench) -> None:
    """z(a x + b) = z(x) within 1e-9; and a better score never earns less."""

    @bar(5_000)
    @given(st.lists(st.floats(-100, 100), min_size=2, max_size=40), st.floats(0.01, 100), st.floats(-10, 10))
    def check(scores: list[float], a: float, b: float) -> None:
        key, other = bench.key(), bench.key()
        before = bench.reward(key, scores)
        after = bench.reward(other, [a * score + b for score in scores])
        forget(bench, key, other)
        assume(before.stats.std >= 0.01 and after.stats.std >= 0.01)
        for one, moved in zip(before.normalized.rewards, after.normalized.rewards, strict=True):
            assert one.clipped or moved.clipped or one.reward == pytest.approx(moved.reward, abs=1e-9)
        ranked = sorted(zip(scores, before.normalized.rewards, strict=True), key=lambda pair: pair[0])
        rewards = [reward.reward for _, reward in ranked]
        assert rewards == sorted(rewards)

    check()


def q13_an_outlier_leaves_no_trace(bench: Bench) -> None:
    """After it left the window, everything is as if it had never been there."""

    @bar(2_000)
    @given(st.lists(SCORES, min_size=1, max_size=10), SCORES, st.lists(SCORES, max_size=8))
    def check(window_full: list[float], outlier: float, before: list[float]) -> None:
        key, fresh, window = bench.key(), bench.key(), len(window_full)
        bench.commit(key, [*before, outlier], window)
        result = bench.commit(key, window_full, window)
        assert same_bits(result.stats, bench.commit(fresh, window_full, window).stats)
        assert same_bits(result.stats, expected_stats(window_full, window))
        forget(bench, key, fresh)

    check()


def forget(bench: Bench, *keys: QueueKey) -> None:
    """Delete an example's queues: thousands of examples share one store."""
    for key in keys:
        bench.run(bench.store.delete(key))
