"""What `service.stores.base` promises, on every store. Names Q1 .. Q14 are the properties of the reward queue.

Stores are asked from plain functions through one event loop per test, so that hypothesis may run many examples on one
open store; each example takes a queue of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from service.errors import Conflict, InvalidInput, Overloaded, ServiceError, StoreUnavailable
from service.normalization import MAX_ABS_SCORE, WindowStats, normalize, window_stats
from service.stores.base import (
    MAX_WINDOW,
    CommitResult,
    IdempotencyRecord,
    QueueKey,
    RewardStore,
    StoreLimits,
    dump_queue,
    load_queue,
)
from tests.support.properties import bar, examples
from tests.support.stores import BACKENDS, Backend, FakeClock, InjectedError

T = TypeVar("T")

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


@dataclass
class Bench:
    """An open store with the loop it lives on."""

    backend: Backend
    folder: Path
    runner: asyncio.Runner
    store: RewardStore
    clock: FakeClock
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def key(self, **changes: str) -> QueueKey:
        """A queue nobody has used."""
        return replace(QueueKey(f"queue {next(self.numbers)}", "demo", "v1", "t1", "group"), **changes)

    def record(self, body: str = "body", draft: bytes = b"draft") -> IdempotencyRecord:
        return IdempotencyRecord(f"key {next(self.numbers)}", body, draft)

    def digest(self, *keys: QueueKey) -> bytes:
        """Every byte of the state of these queues."""
        return b"\n".join(self.run(self.store.export(key)) or b"none" for key in keys)

    def commit(self, key: QueueKey, scores: list[float], window: int = 100) -> CommitResult:
        return self.run(self.store.commit(key, scores, window))

    def commit_keyed(self, key: QueueKey, scores: list[float], record: IdempotencyRecord | None) -> CommitResult:
        return self.run(self.store.commit(key, scores, 100, record))


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture
def bench(backend: Backend, tmp_path: Path) -> Iterator[Bench]:
    clock = FakeClock()
    limits = StoreLimits(max_queues=1_000_000)
    with asyncio.Runner() as runner:
        store = backend.make(tmp_path, limits, clock)
        runner.run(store.start())
        yield Bench(backend, tmp_path, runner, store, clock)
        runner.run(store.close())


def small_bench(bench: Bench, limits: StoreLimits) -> Bench:
    """A second store with other limits, elsewhere, for the test to close."""
    folder = bench.folder / f"small {next(bench.numbers)}"
    folder.mkdir()
    store = bench.backend.make(folder, limits, bench.clock)
    bench.run(store.start())
    return replace(bench, store=store, folder=folder)


def same_bits(one: WindowStats, other: WindowStats) -> bool:
    return repr(one) == repr(other)


def expected_stats(history: list[float], window: int) -> WindowStats:
    """Statistics of the last `window` of all scores that ever entered."""
    return window_stats([score + 0.0 for score in history[-window:]])


# --- windows and statistics


def test_entries_are_numbered_without_gaps_in_one_epoch(bench: Bench) -> None:
    key = bench.key()
    first = bench.commit(key, [0.1, 0.2, 0.3])
    second = bench.commit(key, [0.4])
    assert (first.seq_first, first.seq_last, second.seq_first, second.seq_last) == (1, 3, 4, 4)
    assert first.epoch == second.epoch != ""
    assert (first.scores, first.replayed) == ((0.1, 0.2, 0.3), False)


def test_statistics_are_those_after_the_commit(bench: Bench) -> None:
    key = bench.key()
    assert bench.commit(key, [0.0, 1.0]).stats == WindowStats(2, 0.5, 0.5)
    assert bench.commit(key, [0.5]).stats == window_stats([0.0, 1.0, 0.5])


def test_every_reply_carries_the_exact_stats_of_its_window(bench: Bench) -> None:
    """Q1, bit for bit, for any batches and window; and what can be read afterwards agrees."""

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


def test_a_batch_larger_than_the_window_leaves_its_tail(bench: Bench) -> None:
    key = bench.key()
    result = bench.commit(key, [1.0, 2.0, 3.0, 4.0, 5.0], window=2)
    assert (result.seq_first, result.seq_last, result.stats.mean) == (1, 5, 4.5)


@pytest.mark.parametrize(("entries", "normalized"), [(15, False), (16, True), (17, True)])
def test_cold_start_counts_this_request(bench: Bench, entries: int, normalized: bool) -> None:
    """Q7: the scores that bring the window to min_count are the first to be normalized."""
    key = bench.key()
    bench.commit(key, [0.5] * (entries - 1))
    result = bench.commit(key, [1.0])
    assert normalize(result.scores, result.stats, min_count=16).normalized == normalized


def test_an_outlier_leaves_no_trace(bench: Bench) -> None:
    """Q13: after it left the window, everything is as if it had never been there."""

    @bar(2_000)
    @given(st.lists(SCORES, min_size=1, max_size=10), SCORES, st.lists(SCORES, max_size=8))
    def check(window_full: list[float], outlier: float, before: list[float]) -> None:
        key, window = bench.key(), len(window_full)
        bench.commit(key, [*before, outlier], window)
        result = bench.commit(key, window_full, window)
        assert same_bits(result.stats, bench.commit(bench.key(), window_full, window).stats)

    check()


def test_any_input_is_refused_or_counted_finitely(bench: Bench) -> None:
    """Q3: refused with the state unchanged, or finite statistics with a variance that is one."""
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


# --- keys, epochs, windows


def test_the_first_commit_fixes_the_window(bench: Bench) -> None:
    key = bench.key()
    bench.commit(key, [0.5], window=10)
    before = bench.digest(key)
    with pytest.raises(Conflict):
        bench.commit(key, [0.5], window=11)
    assert bench.digest(key) == before


def test_deleting_starts_a_new_epoch(bench: Bench) -> None:
    key = bench.key()
    old = bench.commit(key, [0.5, 0.7], window=10)
    assert bench.run(bench.store.delete(key))
    assert not bench.run(bench.store.delete(key))
    assert bench.run(bench.store.peek(key)) is None
    new = bench.commit(key, [0.9], window=20)
    assert new.epoch != old.epoch
    assert (new.seq_first, new.stats.count) == (1, 1)


@pytest.mark.parametrize("part", ["name", "judge", "weight_version", "template_hash", "score_kind"])
def test_any_change_of_the_key_is_another_queue(bench: Bench, part: str) -> None:
    key = bench.key()
    other = replace(key, **{part: "other"})
    bench.commit(key, [0.5])
    before = bench.digest(key)
    assert bench.commit(other, [0.7]).seq_first == 1
    assert bench.digest(key) == before


def test_queues_do_not_touch_each_other(bench: Bench) -> None:
    """Q5: whatever happens to one queue, another one's bytes stay."""
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


def test_reading_writes_nothing(bench: Bench) -> None:
    """Q6: ``update: false`` and every other reader leave every byte as it was."""

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
        assert bench.digest(key, unknown) == before
        assert bench.commit(key, [0.5]).seq_first == len(batch) + 1

    check()


def test_queues_are_listed_by_name_in_key_order(bench: Bench) -> None:
    keys = [bench.key(name="twin", judge=judge) for judge in ("b", "a")] + [bench.key(name="alone")]
    for key in keys:
        bench.commit(key, [0.5])
    assert [state.key for state in bench.run(bench.store.list_queues())] == sorted(keys)
    assert [state.key for state in bench.run(bench.store.list_queues("twin"))] == sorted(keys[:2])
    assert bench.run(bench.store.list_queues("nobody")) == []


@pytest.mark.parametrize("bad", ["", "x" * 129, "line\nbreak", "nul\0", "\ud800"])
def test_bad_names_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        QueueKey(bad, "demo", "v1", "t1", "group")
    with pytest.raises(InvalidInput):
        IdempotencyRecord(bad * 5, "body")


@pytest.mark.parametrize("name", ["x" * 128, "'; DROP TABLE queues; --", "имя 名前 🙂", "a/b:c\\d%e"])
def test_any_printable_name_works(bench: Bench, name: str) -> None:
    key = bench.key(name=name)
    bench.commit(key, [0.5])
    (state,) = bench.run(bench.store.list_queues(name))
    assert state.key == key
    assert load_queue(bench.digest(key)).key == key


# --- idempotency


def test_a_repeated_request_counts_once_and_answers_the_same(bench: Bench) -> None:
    """Q4: k retries, other commits between them, cut anywhere; one entry, one reply; another body is refused."""

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


def test_concurrent_duplicates_get_the_first_ones_reply(bench: Bench) -> None:
    key, record = bench.key(), bench.record()

    async def together() -> list[bytes | None]:
        drafts = [replace(record, draft=b"%d" % number) for number in range(20)]
        return await asyncio.gather(*(request(bench.store, key, [0.1, 0.9], draft) for draft in drafts))

    replies = bench.run(together())
    assert len(set(replies)) == 1
    assert replies[0] is not None
    state = bench.run(bench.store.peek(key))
    assert state is not None
    assert state.seq_last == 2


def test_a_retry_after_a_cut_finds_the_commit_and_its_draft(bench: Bench) -> None:
    """The request died between counting and answering: what it counted, and what it wanted to say, are there."""
    key, record = bench.key(), bench.record(draft=b"what was judged")
    first = bench.run(bench.store.commit(key, [0.1, 0.9], 100, record))
    bench.commit(key, [0.3])
    known = bench.run(bench.store.begin(record.key, record.body_hash))
    assert known is not None
    assert known.reply is None
    assert known.commit == replace(first, replayed=True, draft=b"what was judged")
    again = bench.run(bench.store.commit(key, [0.2, 0.8], 100, replace(record, draft=b"judged anew")))
    assert again == known.commit
    assert bench.run(bench.store.finish(record.key, record.body_hash, b"reply")) == b"reply"
    assert bench.run(bench.store.finish(record.key, record.body_hash, b"late reply")) == b"reply"
    done = bench.run(bench.store.begin(record.key, record.body_hash))
    assert done is not None
    assert done.reply == b"reply"
    assert done.commit == replace(first, replayed=True)


def test_requests_without_a_queue_have_replies_too(bench: Bench) -> None:
    record = bench.record()
    assert bench.run(bench.store.begin(record.key, record.body_hash)) is None
    assert bench.run(bench.store.finish(record.key, record.body_hash, b"\x00reply")) == b"\x00reply"
    known = bench.run(bench.store.begin(record.key, record.body_hash))
    assert known is not None
    assert (known.reply, known.commit) == (b"\x00reply", None)
    with pytest.raises(Conflict):
        bench.run(bench.store.commit(bench.key(), [0.5], 100, record))


def test_records_outlive_their_queue_but_not_their_day(bench: Bench) -> None:
    key, record = bench.key(), bench.record()
    first = bench.run(bench.store.commit(key, [0.5], 100, record))
    bench.run(bench.store.delete(key))
    bench.clock.now += 24 * 3600 - 1
    known = bench.run(bench.store.begin(record.key, record.body_hash))
    assert known is not None
    assert known.commit is not None
    assert known.commit.epoch == first.epoch
    bench.clock.now += 1
    assert bench.run(bench.store.begin(record.key, "another body")) is None
    assert not bench.run(bench.store.commit(key, [0.5], 100, record)).replayed


# --- atomicity


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_commit_happens_whole_or_not_at_all(bench: Bench, keyed: bool, exists: bool) -> None:
    """Q10: a fault at each step of the commit; queue and record change together."""
    outcomes = []
    for step in range(500):
        key, record = bench.key(), bench.record() if keyed else None
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


def test_replicas_see_one_history(backend: Backend, tmp_path: Path) -> None:
    """Q11: seq is unique and gap-free over replicas, and replaying by seq gives every mean and std bit for bit."""

    async def writer(store: RewardStore, key: QueueKey, number: int, commits: int) -> list[CommitResult]:
        done = []
        for i in range(commits):
            scores = [math.sin(1000 * number + i + j) for j in range(1 + (i + number) % 5)]
            done.append(await store.commit(key, scores, 37))
        return done

    async def everyone() -> list[CommitResult]:
        stores = backend.replicas(tmp_path, 4)
        await asyncio.gather(*(store.start() for store in stores))
        key = QueueKey("shared", "demo", "v1", "t1", "group")
        done = await asyncio.gather(
            *(writer(store, key, number, examples(5_000)) for number, store in enumerate(stores))
        )
        await asyncio.gather(*(store.close() for store in stores))
        return [result for results in done for result in results]

    replay(asyncio.run(everyone()), 37)


def replay(results: list[CommitResult], window: int) -> None:
    """Check the replies of one epoch against a replay in seq order."""
    history: list[float] = []
    for result in sorted(results, key=lambda result: result.seq_first):
        assert result.seq_first == len(history) + 1
        history += result.scores
        assert result.seq_last == len(history)
        assert same_bits(result.stats, expected_stats(history, window))
    assert len({result.epoch for result in results}) == 1


# --- export and import


def test_a_saved_queue_comes_back_byte_for_byte(bench: Bench) -> None:
    """Q14: and goes on from there, in its epoch."""
    key = bench.key()
    bench.commit(key, [0.1, -5e-324, 1e6, 1 / 3], window=3)
    saved = bench.digest(key)
    old = bench.run(bench.store.get(key))
    with pytest.raises(Conflict):
        bench.run(bench.store.import_(saved))
    bench.run(bench.store.delete(key))
    state = bench.run(bench.store.import_(saved))
    assert bench.digest(key) == saved
    assert old is not None
    assert state == old.state()
    result = bench.commit(key, [0.5], window=3)
    assert (result.epoch, result.seq_first) == (old.epoch, 5)


def test_damaged_exports_are_refused_whole(bench: Bench) -> None:
    """Q14: any change of a byte, any cut; nothing is half-read. (Blanks between JSON tokens are no damage.)"""
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


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": 2},
        {"version": True},
        {"format": "other"},
        {"extra": 1},
        {"scores": [0.1, 0.2]},
        {"scores": [0.1, 0.2, math.nan]},
        {"scores": [0.1, 0.2, 1]},
        {"scores": [0.1, 0.2, 1e7]},
        {"scores": None},
        {"seq_last": -1},
        {"seq_last": 2.0},
        {"seq_last": 2**60},
        {"window": 0},
        {"window": MAX_WINDOW + 1},
        {"key": ["a"]},
        {"key": ["a", "b", "c", "d", 5]},
        {"key": ["", "b", "c", "d", "e"]},
        {"epoch": ""},
        {"sha256": "0" * 64},
    ],
)
def test_exports_that_we_did_not_write_are_refused(bench: Bench, changes: dict[str, object]) -> None:
    """Even where a forger got the JSON right: fields are checked before the checksum is."""
    key = bench.key()
    bench.commit(key, [0.1, 0.2, 0.3], window=3)
    forged = json.dumps(json.loads(bench.digest(key)) | changes).encode()
    bench.run(bench.store.delete(key))
    with pytest.raises(InvalidInput):
        bench.run(bench.store.import_(forged))
    assert bench.run(bench.store.peek(key)) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 9_000_000])
def test_what_is_no_export_is_refused(bench: Bench, data: bytes) -> None:
    with pytest.raises(InvalidInput):
        bench.run(bench.store.import_(data))
    assert bench.run(bench.store.list_queues()) == []


def test_the_export_format_is_pinned() -> None:
    """A change of the format must come with a new version."""
    text = (
        b'{"epoch":"e0","format":"reward-queue","key":["q","j","w","t","k"],"scores":[0.1,-2.0],"seq_last":7,'
        b'"sha256":"c83fb4a907fc568d1737c0e25bfb7d84ab26c17653f1ebe933cc5a13e43a4f5c","version":1,"window":2}'
    )
    assert dump_queue(load_queue(text)) == text


# --- limits, life and death


def test_the_queue_limit_is_an_error_never_an_eviction(bench: Bench) -> None:
    small = small_bench(bench, StoreLimits(max_queues=2))
    keys = [small.key(), small.key()]
    for key in keys:
        small.commit(key, [0.5])
    before = small.digest(*keys)
    with pytest.raises(Overloaded):
        small.commit(small.key(), [0.5])
    foreign = bench.key()
    bench.commit(foreign, [0.5])
    with pytest.raises(Overloaded):
        small.run(small.store.import_(bench.digest(foreign)))
    assert small.digest(*keys) == before
    assert small.commit(keys[0], [0.5]).seq_last == 2
    small.run(small.store.delete(keys[1]))
    assert small.commit(small.key(), [0.5]).seq_last == 1
    small.run(small.store.close())


def test_the_record_limit_is_an_error_until_records_age(bench: Bench) -> None:
    small = small_bench(bench, StoreLimits(max_record_bytes=2_100))
    key, known = small.key(), small.record(draft=b"x" * 1_500)
    small.run(small.store.commit(key, [0.5], 100, known))
    assert small.run(small.store.begin(small.record().key, "body")) is None
    unanswered = small.record()
    small.run(small.store.commit(key, [0.5], 100, unanswered))
    before = small.digest(key)
    new = small.record()
    with pytest.raises(Overloaded):
        small.run(small.store.begin(new.key, "body"))
    with pytest.raises(Overloaded):
        small.run(small.store.commit(key, [0.5], 100, new))
    with pytest.raises(Overloaded):
        small.run(small.store.finish(new.key, "body", b"reply"))
    assert small.digest(key) == before
    assert small.run(small.store.finish(unanswered.key, "body", b"reply")) == b"reply"
    small.clock.now += 24 * 3600
    assert small.run(small.store.begin(new.key, "body")) is None
    assert small.run(small.store.finish(new.key, "body", b"reply")) == b"reply"
    small.run(small.store.close())


def test_a_draft_makes_room_when_its_reply_is_kept(bench: Bench) -> None:
    small = small_bench(bench, StoreLimits(max_record_bytes=2_000))
    record = small.record(draft=b"x" * 3_000)
    small.run(small.store.commit(small.key(), [0.5], 100, record))
    with pytest.raises(Overloaded):
        small.run(small.store.begin("new", "body"))
    small.run(small.store.finish(record.key, record.body_hash, b"short"))
    assert small.run(small.store.begin("new", "body")) is None
    small.run(small.store.close())


def test_a_closed_store_says_so(bench: Bench) -> None:
    small = small_bench(bench, StoreLimits())
    key = small.key()
    small.commit(key, [0.5])
    small.run(small.store.close())
    small.run(small.store.close())
    for call in (
        small.store.ping(),
        small.store.commit(key, [0.5], 100),
        small.store.peek(key),
        small.store.list_queues(),
        small.store.delete(key),
        small.store.export(key),
        small.store.begin("key", "body"),
        small.store.finish("key", "body", b"reply"),
    ):
        with pytest.raises(StoreUnavailable):
            small.run(call)


def test_a_restart_keeps_everything_or_says_so_by_a_new_epoch(bench: Bench) -> None:
    small = small_bench(bench, StoreLimits())
    key, record = small.key(), small.record()
    first = small.run(small.store.commit(key, [0.1, 0.2], 100, record))
    saved = small.digest(key)
    small.run(small.store.close())
    again = replace(small, store=bench.backend.make(small.folder, StoreLimits(), bench.clock))
    again.run(again.store.start())
    if bench.backend.durable:
        assert again.digest(key) == saved
        assert again.run(again.store.commit(key, [0.1, 0.2], 100, record)).replayed
        assert again.commit(key, [0.3]).seq_first == 3
    else:
        new = again.commit(key, [0.3])
        assert (new.epoch != first.epoch, new.seq_first) == (True, 1)
    again.run(again.store.close())


# --- all of it together


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls against a model: per queue its history and window, per key its first result."""

    bench: Bench

    @initialize()
    def begin_empty(self) -> None:
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


def test_any_sequence_of_calls_matches_the_model(bench: Bench) -> None:
    """Q1 to Q10 in any order."""
    machine = type("Machine", (StoreMachine,), {"bench": bench})
    run_state_machine_as_test(machine, settings=bar(2_000, stateful_step_count=25))
