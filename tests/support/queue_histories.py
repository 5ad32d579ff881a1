"""Properties Q10, Q11, Q12 and Q14 of reward queues, and any sequence of calls against a model.

See `tests.support.queue_properties`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
from dataclasses import replace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from service.errors import Conflict, InvalidInput, Overloaded, StoreUnavailable
from service.stores.base import CommitResult, IdempotencyRecord, QueueKey, RewardStore, StoreLimits
from tests.support.properties import bar, count, scaled
from tests.support.queue_bench import Bench, small_bench
from tests.support.queue_properties import BATCHES, forget
from tests.support.reference import check_replay, expected_stats, same_bits
from tests.support.stores import InjectedError

SHARED = QueueKey("shared", "demo", "v1", "t1", "group")
REPLICAS = 4
MIB = 1024**2


def q10_a_commit_happens_whole_or_not_at_all(bench: Bench, keyed: bool, exists: bool) -> None:
    """A fault at each step of the commit; queue and record change together."""
    outcomes = []
    for step in range(500):
        key, record = bench.key(), bench.record() if keyed else None
        count()
        if exists:
            bench.commit(key, [0.5])
        before = bench.digest(key)
        try:
            with bench.backend.fault(bench.store, step):
                bench.commit_keyed(key, [0.1, 0.2], record)
            outcomes.append("no fault")
            break
        except (InjectedError, StoreUnavailable):
            pass
        state = bench.run(bench.store.peek(key))
        counted = 0 if state is None else state.seq_last
        assert counted in (int(exists), int(exists) + 2), step
        assert (counted == int(exists)) == (bench.digest(key) == before)
        if record is not None:
            known = bench.run(bench.store.begin(record.key, record.body_hash))
            assert (known is not None) == (counted == int(exists) + 2), step
        outcomes.append("none" if counted == int(exists) else "all")
        retried = bench.commit_keyed(key, [0.1, 0.2], record)
        assert retried.replayed == (keyed and outcomes[-1] == "all")
    assert outcomes[-1] == "no fault"
    assert outcomes.count("none") >= 5


def q11_replicas_see_one_history(bench: Bench, seed: int) -> None:
    """seq is unique and gap-free over replicas, and replaying by seq gives every mean and std bit for bit."""

    async def writer(store: RewardStore, number: int, commits: int) -> list[CommitResult]:
        done = []
        for i in range(commits):
            scores = [math.sin(1000 * number + i + j + seed) for j in range(1 + (i + number + seed) % 5)]
            done.append(await store.commit(SHARED, scores, 37))
            await asyncio.sleep(0)
        return done

    async def everyone() -> list[CommitResult]:
        stores = bench.backend.replicas(bench.folder, REPLICAS)
        await asyncio.gather(*(store.start() for store in stores))
        try:
            done = await asyncio.gather(*(writer(store, n, scaled(5_000)) for n, store in enumerate(stores)))
            await stores[0].delete(SHARED)
        finally:
            await asyncio.gather(*(store.close() for store in stores))
        return [result for results in done for result in results]

    results = asyncio.run(everyone())
    count(len(results))
    check_replay(results, 37)


def q12_memory_is_bounded_and_the_cap_is_an_error(bench: Bench) -> None:
    """Scores beyond the window cost nothing, and one queue too many is refused with every other one untouched."""
    runs, window = scaled(10_000), 50
    small = small_bench(bench, StoreLimits(max_queues=runs))
    keys = [small.key() for _ in range(runs)]
    process = psutil.Process()
    for key in keys:
        small.commit(key, [0.25] * window, window)
    gc.collect()
    full = process.memory_info().rss
    for part in range(4):
        for number, key in enumerate(keys):
            result = small.commit(key, [number + part / 8] * window, window)
            assert (result.stats.count, result.seq_last) == (window, (part + 2) * window)
    gc.collect()
    assert process.memory_info().rss - full <= 32 * MIB + runs * 2 * 40 * window  # floats of 24 bytes, pointers of 8
    first = small.digest(*keys[:5], keys[-1])
    with pytest.raises(Overloaded):
        small.commit(small.key(), [0.5], window)
    assert small.digest(*keys[:5], keys[-1]) == first
    assert len(small.run(small.store.list_queues())) == runs
    count(runs)
    small.run(small.store.close())


def q14_a_saved_queue_comes_back_byte_for_byte(bench: Bench) -> None:
    """Any queue; and it goes on from there, in its epoch."""

    @bar(2_000)
    @given(st.lists(BATCHES, min_size=1, max_size=4), st.integers(1, 40))
    def check(batches: list[list[float]], window: int) -> None:
        key = bench.key()
        for batch in batches:
            last = bench.commit(key, batch, window)
        saved, old = bench.digest(key), bench.run(bench.store.get(key))
        assert old is not None
        with pytest.raises(Conflict):
            bench.run(bench.store.import_(saved))
        bench.run(bench.store.delete(key))
        assert bench.run(bench.store.import_(saved)) == old.state()
        assert bench.digest(key) == saved
        result = bench.commit(key, [0.5], window)
        assert (result.epoch, result.seq_first) == (old.epoch, last.seq_last + 1)
        forget(bench, key)

    check()


def q14_damaged_exports_are_refused_whole(bench: Bench) -> None:
    """Any change of a byte, any cut; nothing is half-read. (Blanks between JSON tokens are no damage.)"""
    key = bench.key()
    bench.commit(key, [0.1, 0.2, 0.3], window=3)
    saved = bench.digest(key)
    bench.run(bench.store.delete(key))

    @bar(2_000)
    @given(st.integers(0, len(saved) - 1), st.one_of(st.none(), st.binary(max_size=3)))
    def check(at: int, instead: bytes | None) -> None:
        damaged = saved[:at] if instead is None else saved[:at] + instead + saved[at + 1 :]
        if same_json(damaged, saved):
            bench.run(bench.store.import_(damaged))
            assert bench.digest(key) == saved
            bench.run(bench.store.delete(key))
            return
        with pytest.raises(InvalidInput, match="export"):
            bench.run(bench.store.import_(damaged))
        assert bench.run(bench.store.peek(key)) is None

    check()


def same_json(one: bytes, other: bytes) -> bool:
    """Equal but for blanks between tokens and the spelling of numbers."""
    try:
        return repr(json.loads(one)) == repr(json.loads(other))
    except ValueError:
        return False


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls against a model: per queue its history and window, per key its first result."""

    bench: Bench

    @initialize()
    def begin_empty(self) -> None:
        count()
        self.keys = [self.bench.key() for _ in range(2)]
        self.queues: dict[QueueKey, tuple[str, int, list[float]]] = {}
        self.commits: dict[IdempotencyRecord, CommitResult] = {}
        self.replies: dict[IdempotencyRecord, bytes] = {}
        self.exports: dict[QueueKey, tuple[bytes, tuple[str, int, list[float]]]] = {}

    @rule(which=st.integers(0, 1), scores=BATCHES, window=st.sampled_from([3, 3, 3, 5]), keyed=st.booleans())
    def commit(self, which: int, scores: list[float], window: int, keyed: bool) -> None:
        key, record = self.keys[which], self.bench.record() if keyed else None
        epoch, fixed, history = self.queues.get(key, ("", window, []))
        if fixed != window:
            with pytest.raises(Conflict):
                self.bench.run(self.bench.store.commit(key, scores, window, record))
            return
        result = self.bench.run(self.bench.store.commit(key, scores, window, record))
        assert result.epoch == (epoch or result.epoch)
        assert result.seq_first == len(history) + 1
        history = history + scores
        assert same_bits(result.stats, expected_stats(history, window))
        self.queues[key] = (result.epoch, window, history)
        if record is not None:
            self.commits[record] = replace(result, replayed=True, draft=record.draft)

    @precondition(lambda self: self.commits)
    @rule(data=st.data(), scores=BATCHES, finish=st.booleans())
    def retry(self, data: st.DataObject, scores: list[float], finish: bool) -> None:
        record = data.draw(st.sampled_from(list(self.commits)))
        if finish:
            reply = self.replies.setdefault(record, b"%d" % len(self.replies))
            self.commits[record] = replace(self.commits[record], draft=None)
            assert self.bench.run(self.bench.store.finish(record.key, record.body_hash, reply)) == reply
        assert self.bench.run(self.bench.store.commit(self.keys[0], scores, 3, record)) == self.commits[record]
        known = self.bench.run(self.bench.store.begin(record.key, record.body_hash))
        assert known is not None
        assert (known.reply, known.commit) == (self.replies.get(record), self.commits[record])

    @rule(which=st.integers(0, 1))
    def delete(self, which: int) -> None:
        existed = self.queues.pop(self.keys[which], None) is not None
        assert self.bench.run(self.bench.store.delete(self.keys[which])) == existed

    @rule(which=st.integers(0, 1))
    def export(self, which: int) -> None:
        saved = self.bench.run(self.bench.store.export(self.keys[which]))
        assert (saved is not None) == (self.keys[which] in self.queues)
        if saved is not None:
            self.exports[self.keys[which]] = (saved, self.queues[self.keys[which]])

    @precondition(lambda self: self.exports)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.exports)))
        saved, model = self.exports[key]
        if key in self.queues:
            with pytest.raises(Conflict):
                self.bench.run(self.bench.store.import_(saved))
        else:
            self.bench.run(self.bench.store.import_(saved))
            self.queues[key] = model

    @rule(which=st.integers(0, 1))
    def peek(self, which: int) -> None:
        state = self.bench.run(self.bench.store.peek(self.keys[which]))
        model = self.queues.get(self.keys[which])
        assert (state is None) == (model is None)
        if state is not None and model is not None:
            assert (state.epoch, state.window, state.seq_last) == (model[0], model[1], len(model[2]))
            assert same_bits(state.stats, expected_stats(model[2], model[1]))


def any_sequence_of_calls_matches_the_model(bench: Bench) -> None:
    """Q1 to Q10 in any order."""
    bound = type("Machine", (StoreMachine,), {"bench": bench})
    run_state_machine_as_test(bound, settings=bar(2_000, stateful_step_count=25).settings)
