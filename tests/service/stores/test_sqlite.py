"""What only a file can suffer: locks, damage, foreign content."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import StartupError, StoreUnavailable
from service.stores.base import IdempotencyRecord, Queue, QueueKey
from service.stores.sqlite import SCHEMA_VERSION, SqliteStore
from tests.support.store_writer import KEY, WINDOW


async def open_store(path: Path, busy_timeout_s: float = 5.0) -> SqliteStore:
    store = SqliteStore(path, busy_timeout_s=busy_timeout_s)
    await store.start()
    return store


async def test_a_lock_held_elsewhere_is_unavailable_then_over(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "rewards.sqlite", busy_timeout_s=0.05)
    await store.commit(KEY, [0.5], WINDOW)
    other = sqlite3.connect(tmp_path / "rewards.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.commit(KEY, [0.7], WINDOW)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    state = await store.peek(KEY)  # reading needs no lock
    assert state is not None
    assert state.seq_last == 1
    other.execute("ROLLBACK")
    other.close()
    assert (await store.commit(KEY, [0.7], WINDOW)).seq_first == 2
    await store.close()


async def test_waiting_for_a_lock_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "rewards.sqlite")
    other = sqlite3.connect(tmp_path / "rewards.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    commit = asyncio.create_task(store.commit(KEY, [0.5], WINDOW))
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not commit.done()
    other.execute("ROLLBACK")
    other.close()
    assert (await commit).seq_last == 1
    await store.close()


async def test_a_cancelled_commit_is_known_by_its_record(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "rewards.sqlite")
    record = IdempotencyRecord("key", "body")
    commit = asyncio.create_task(store.commit(KEY, [0.5], WINDOW, record))
    await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    await store.commit(KEY, [0.5], WINDOW, record)
    state = await store.peek(KEY)
    assert state is not None
    assert state.seq_last == 1
    await store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE queues SET scores = zeroblob(length(scores))",
        "UPDATE queues SET scores = substr(scores, 1, 8)",
        "UPDATE queues SET scores = CAST(scores || scores AS BLOB)",
    ],
)
async def test_damaged_scores_are_never_read(tmp_path: Path, change: str) -> None:
    store = await open_store(tmp_path / "rewards.sqlite")
    other_key = QueueKey("other", "demo", "v1", "t1", "group")
    await store.commit(other_key, [0.5], WINDOW)
    await store.commit(KEY, [0.25, 0.5], WINDOW)
    other = sqlite3.connect(tmp_path / "rewards.sqlite", isolation_level=None)
    other.execute(change + " WHERE name = 'shared'")
    other.close()
    for call in (store.peek(KEY), store.commit(KEY, [0.5], WINDOW), store.export(KEY)):
        with pytest.raises(StoreUnavailable, match="damaged"):
            await call
    assert (await store.commit(other_key, [0.5], WINDOW)).seq_last == 2
    assert await store.delete(KEY)
    assert (await store.commit(KEY, [0.5], WINDOW)).seq_first == 1
    await store.close()


async def test_a_corrupt_file_is_unavailable_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "rewards.sqlite"
    store = await open_store(path)
    for number in range(200):
        await store.commit(QueueKey(f"queue {number}", "demo", "v1", "t1", "group"), [0.5] * 50, WINDOW)
    await store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    store = await open_store(path)
    with pytest.raises(StoreUnavailable):
        await store.list_queues()
    with pytest.raises(StoreUnavailable):
        await store.commit(KEY, [0.5], WINDOW)
    await store.close()


@pytest.mark.parametrize("content", ["text", "foreign tables", "a later version"])
async def test_a_file_that_is_no_store_stops_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rewards.sqlite"
    if content == "text":
        path.write_text("not a database " * 1_000)
    else:
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE theirs (x)")
        if content == "a later version":
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        db.commit()
        db.close()
    store = SqliteStore(path)
    with pytest.raises(StartupError, match="store"):
        await store.start()
    await store.close()


async def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "rewards.sqlite")
    with pytest.raises(StartupError, match=r"store\.path"):
        await store.start()
    await store.close()


async def test_a_store_that_was_not_started_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "rewards.sqlite")
    with pytest.raises(StoreUnavailable):
        await store.commit(KEY, [0.5], WINDOW)
    await store.close()


async def test_a_full_disk_is_unavailable_and_changes_nothing(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "rewards.sqlite")
    await store.commit(KEY, [0.5], WINDOW)
    before = await store.export(KEY)
    await store._run(
        lambda: store._connection().execute("PRAGMA max_page_count = 1").close()
    )  # SQLite keeps what it has
    record = IdempotencyRecord("key", "body", b"x" * 1_000_000)
    with pytest.raises(StoreUnavailable):
        await store.commit(KEY, [0.7], WINDOW, record)
    assert await store.export(KEY) == before
    assert await store.begin("key", "body") is None
    await store.close()


async def test_a_clean_close_leaves_one_file(tmp_path: Path) -> None:
    """Nothing but the database: the log is folded in, so the file can be copied as a backup."""
    store = await open_store(tmp_path / "rewards.sqlite")
    await store.commit(KEY, [0.5], WINDOW)
    await store.close()
    assert os.listdir(tmp_path) == ["rewards.sqlite"]


OLD_QUEUES = """
CREATE TABLE queues (
    name TEXT NOT NULL, judge TEXT NOT NULL, weight_version TEXT NOT NULL, template_hash TEXT NOT NULL,
    score_kind TEXT NOT NULL, epoch TEXT NOT NULL, window INTEGER NOT NULL, seq_last INTEGER NOT NULL,
    scores BLOB NOT NULL, crc32 INTEGER NOT NULL,
    PRIMARY KEY (name, judge, weight_version, template_hash, score_kind)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


async def test_a_file_of_version_1_gets_its_references(tmp_path: Path) -> None:
    """Full queues take their present window; young ones none yet; a damaged one stays damaged; nothing else changes."""
    path = tmp_path / "rewards.sqlite"
    await (await open_store(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE queues")
        db.executescript(OLD_QUEUES)
        for name, seq_last, scores in (("full", 9, (0.5, 1.0)), ("young", 1, (0.25,)), ("damaged", 7, (0.1, 0.2))):
            blob = struct.pack(f"<{len(scores)}d", *scores)
            crc32 = zlib.crc32(blob) ^ (name == "damaged")
            row = (name, "demo", "v1", "t1", "group", "e0", 2, seq_last, blob, crc32)
            db.execute("INSERT INTO queues VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    db.close()
    for _ in range(2):  # opening it again changes nothing
        store = await open_store(path)
        full, young = replace(KEY, name="full"), replace(KEY, name="young")
        assert await store.get(full) == Queue(full, "e0", 2, 9, (0.5, 1.0), (0.5, 1.0))
        assert await store.get(young) == Queue(young, "e0", 2, 1, (0.25,), ())
        with pytest.raises(StoreUnavailable):
            await store.get(replace(KEY, name="damaged"))
        await store.close()
    store = await open_store(path)
    await store.commit(young, [0.75, 1.0], 2)
    assert await store.get(young) == Queue(young, "e0", 2, 3, (0.75, 1.0), (0.25, 0.75))
    await store.close()
