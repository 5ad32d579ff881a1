"""What `service.stores.base` promises, on every store. The properties Q1 .. Q14 stand in test_queue_properties.py."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Conflict, InvalidInput, Overloaded, StoreUnavailable
from service.normalization import WindowStats, window_stats
from service.stores.base import (
    MAX_SEQ,
    MAX_WINDOW,
    IdempotencyRecord,
    Queue,
    QueueKey,
    StoreLimits,
    dump_queue,
    load_queue,
)
from tests.support.properties import bar
from tests.support.queue_bench import Bench, small_bench
from tests.support.queue_properties import BATCHES, request

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


def test_a_batch_larger_than_the_window_leaves_its_tail(bench: Bench) -> None:
    key = bench.key()
    result = bench.commit(key, [1.0, 2.0, 3.0, 4.0, 5.0], window=2)
    assert (result.seq_first, result.seq_last, result.stats.mean) == (1, 5, 4.5)


def test_the_reference_is_the_first_full_window(bench: Bench) -> None:
    """Empty until full, then the entries 1 .. window for the rest of the epoch, however they were batched."""

    @bar(2_000)
    @given(st.lists(BATCHES, min_size=1, max_size=8), st.integers(1, 20))
    def check(batches: list[list[float]], window: int) -> None:
        key = bench.key()
        history: list[float] = []
        for batch in batches:
            history += [score + 0.0 for score in batch]
            bench.commit(key, batch, window)
            queue = bench.run(bench.store.get(key))
            assert queue is not None
            assert queue.reference == tuple(history[:window] if len(history) >= window else [])
        saved = bench.digest(key)
        bench.run(bench.store.delete(key))
        bench.run(bench.store.import_(saved))
        assert bench.run(bench.store.get(key)) == queue
        bench.run(bench.store.delete(key))

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


def test_the_last_number_of_an_epoch_is_an_error_never_a_repeat(bench: Bench) -> None:
    key = bench.key()
    bench.run(bench.store.import_(dump_queue(Queue(key, "e0", 2, MAX_SEQ - 1, (0.5, 0.7), (0.1, 0.2)))))
    before = bench.digest(key)
    with pytest.raises(Conflict, match="used up"):
        bench.commit(key, [0.5, 0.7], window=2)
    assert bench.digest(key) == before
    assert bench.commit(key, [0.5], window=2).seq_first == MAX_SEQ
    with pytest.raises(Conflict, match="used up"):
        bench.commit(key, [0.5], window=2)


# --- idempotency


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


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": 1},
        {"version": 3},
        {"version": True},
        {"format": "other"},
        {"extra": 1},
        {"scores": [0.1, 0.2]},
        {"scores": [0.1, 0.2, math.nan]},
        {"scores": [0.1, 0.2, 1]},
        {"scores": [0.1, 0.2, 1e7]},
        {"scores": None},
        {"reference": None},
        {"reference": []},
        {"reference": [0.1, 0.2]},
        {"reference": [0.1, 0.2, math.inf]},
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
        b'{"epoch":"e0","format":"reward-queue","key":["q","j","w","t","k"],"reference":[0.5,1.0],"scores":[0.1,-2.0],'
        b'"seq_last":7,"sha256":"1f6f64215cde46a87f6e9dbc039cfbf62ddc77a856321a0d05295cc1dc1ecc62","version":2,"window":2}'
    )
    assert dump_queue(load_queue(text)) == text


def test_an_export_of_version_1_is_refused_with_what_to_do() -> None:
    text = (
        b'{"epoch":"e0","format":"reward-queue","key":["q","j","w","t","k"],"scores":[0.1,-2.0],"seq_last":7,'
        b'"sha256":"c83fb4a907fc568d1737c0e25bfb7d84ab26c17653f1ebe933cc5a13e43a4f5c","version":1,"window":2}'
    )
    with pytest.raises(InvalidInput, match="reads version 2, export the queue again"):
        load_queue(text)


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
