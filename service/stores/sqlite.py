"""Reward queues and idempotency records in one SQLite file: durable, and shared by the processes of one machine.

Every change is one ``BEGIN IMMEDIATE`` transaction: a plain ``BEGIN`` takes the write lock only at the first write, and
with four processes most read-then-write transactions then fail as locked. Write-ahead logging with
``synchronous=NORMAL`` survives a kill of the process at any point; a power cut may lose the last commits, never half
of one.

SQLite's calls block, so one worker thread owns the connection and runs them in order.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TypeVar

from service.errors import StartupError, StoreUnavailable
from service.normalization import WindowStats
from service.stores.base import (
    CommitResult,
    IdempotencyRecord,
    Queue,
    QueueKey,
    QueueState,
    Replay,
    StoreLimits,
    advance,
    already_answered,
    check_commit,
    check_queue_room,
    check_record_room,
    check_same_body,
    dump_queue,
    load_queue,
    queue_exists,
    record_cost,
    reference_size,
    result_of,
)

T = TypeVar("T")

SCHEMA_VERSION = 2
"""Kept in ``PRAGMA user_version``. Version 1 had no references and is brought up to date; any other is refused."""

_SCHEMA = """
CREATE TABLE queues (
    name TEXT NOT NULL, judge TEXT NOT NULL, weight_version TEXT NOT NULL, template_hash TEXT NOT NULL,
    score_kind TEXT NOT NULL, epoch TEXT NOT NULL, window INTEGER NOT NULL, seq_last INTEGER NOT NULL,
    scores BLOB NOT NULL, crc32 INTEGER NOT NULL, reference BLOB NOT NULL DEFAULT x'',
    PRIMARY KEY (name, judge, weight_version, template_hash, score_kind)
) WITHOUT ROWID;
CREATE TABLE records (
    idem_key TEXT PRIMARY KEY, body_hash TEXT NOT NULL, expires_at REAL NOT NULL, cost INTEGER NOT NULL,
    epoch TEXT, seq_first INTEGER, seq_last INTEGER, count INTEGER, mean REAL, std REAL, scores BLOB,
    draft BLOB, reply BLOB
);
CREATE INDEX records_by_age ON records (expires_at);
CREATE TABLE totals (record_bytes INTEGER NOT NULL);
INSERT INTO totals VALUES (0);
"""
_SELECT_QUEUE = "SELECT * FROM queues WHERE (name, judge, weight_version, template_hash, score_kind) = (?, ?, ?, ?, ?)"
_DELETE_QUEUE = "DELETE FROM queues WHERE (name, judge, weight_version, template_hash, score_kind) = (?, ?, ?, ?, ?)"
_ADD_REFERENCE = (
    "UPDATE queues SET reference = ?, crc32 = ?"
    " WHERE (name, judge, weight_version, template_hash, score_kind) = (?, ?, ?, ?, ?)"
)


class SqliteStore:
    """A `RewardStore` in the file at `path`. `clock` gives wall time in seconds, since records outlive the process;
    ``busy_timeout_s`` is how long a call waits for another process's transaction before `StoreUnavailable`."""

    def __init__(
        self,
        path: str | Path,
        limits: StoreLimits | None = None,
        clock: Callable[[], float] = time.time,
        busy_timeout_s: float = 5.0,
    ) -> None:
        self._path = Path(path)
        self._limits = limits or StoreLimits()
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward-store")

    async def start(self) -> None:
        """Open or create the file. Raises `StartupError` when it cannot be, or is not, a store of this version."""
        await self._run(self._open)

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        """See `RewardStore.commit`."""
        checked = check_commit(scores, window)
        return await self._run(lambda: self._commit(key, checked, window, idempotency))

    async def peek(self, key: QueueKey) -> QueueState | None:
        """See `RewardStore.peek`."""
        queue = await self.get(key)
        return None if queue is None else queue.state()

    async def list_queues(self, name: str | None = None) -> list[QueueState]:
        """See `RewardStore.list_queues`."""
        return await self._run(lambda: self._list(name))

    async def get(self, key: QueueKey) -> Queue | None:
        """See `RewardStore.get`."""
        return await self._run(lambda: _load(self._connection(), key))

    async def delete(self, key: QueueKey) -> bool:
        """See `RewardStore.delete`."""
        return await self._run(lambda: self._delete(key))

    async def export(self, key: QueueKey) -> bytes | None:
        """See `RewardStore.export`."""
        queue = await self.get(key)
        return None if queue is None else dump_queue(queue)

    async def import_(self, data: bytes) -> QueueState:
        """See `RewardStore.import_`."""
        queue = load_queue(data)
        await self._run(lambda: self._import(queue))
        return queue.state()

    async def begin(self, idem_key: str, body_hash: str) -> Replay | None:
        """See `RewardStore.begin`."""
        return await self._run(lambda: self._begin(idem_key, body_hash))

    async def finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        """See `RewardStore.finish`."""
        return await self._run(lambda: self._finish(idem_key, body_hash, reply))

    async def ping(self) -> None:
        """See `RewardStore.ping`: takes the write lock and lets it go."""
        await self._run(self._ping)

    async def close(self) -> None:
        """See `RewardStore.close`."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._worker, self._close)
        self._worker.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        """Run `call` on the worker thread; what SQLite raises becomes `StoreUnavailable`."""
        if self._closed:
            raise StoreUnavailable("The reward store is closed; the service is shutting down.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, call)
        except sqlite3.Error as error:
            raise StoreUnavailable("The reward store's file cannot be used; check its disk and permissions.") from error

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            _switch_to_wal(self._db, self._busy_timeout_s)
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._transaction() as db:
                version = _create(db)
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise StartupError("The reward store's file cannot be opened; check store.path and permissions.") from error
        if version != SCHEMA_VERSION:
            self._close()
            raise StartupError(
                f"The reward store's file has version {version} and this service needs {SCHEMA_VERSION}; "
                "name another file in store.path."
            )

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreUnavailable("The reward store is not open; the service is starting or shutting down.")
        return self._db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic change: the write lock first, all or nothing at the end, whatever is raised inside."""
        db = self._connection()
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _commit(
        self, key: QueueKey, scores: tuple[float, ...], window: int, idempotency: IdempotencyRecord | None
    ) -> CommitResult:
        with self._transaction() as db:
            if idempotency is not None:
                _forget_expired(db, self._clock())
                record = self._living(db, idempotency.key, idempotency.body_hash)
                if record is not None:
                    return _replayed(record)
                check_record_room(_record_bytes(db), self._limits)
            before = _load(db, key)
            if before is None:
                self._check_queue_room(db)
            after = advance(before, key, scores, window)
            result = result_of(after, scores)
            _save(db, after)
            if idempotency is not None:
                self._remember(db, idempotency, result)
        return result

    def _list(self, name: str | None) -> list[QueueState]:
        rows = self._connection().execute("SELECT * FROM queues WHERE name = coalesce(?, name)", (name,)).fetchall()
        return sorted((_queue_of(row).state() for row in rows), key=lambda state: state.key)

    def _delete(self, key: QueueKey) -> bool:
        with self._transaction() as db:
            return db.execute(_DELETE_QUEUE, astuple(key)).rowcount > 0

    def _import(self, queue: Queue) -> None:
        with self._transaction() as db:
            if _load(db, queue.key) is not None:
                raise queue_exists()
            self._check_queue_room(db)
            _save(db, queue)

    def _begin(self, idem_key: str, body_hash: str) -> Replay | None:
        db = self._connection()
        row = self._living(db, idem_key, body_hash)
        if row is not None:
            return Replay(row["reply"], None if row["epoch"] is None else _replayed(row))
        dead = db.execute("SELECT total(cost) FROM records WHERE expires_at <= ?", (self._clock(),)).fetchone()[0]
        check_record_room(_record_bytes(db) - int(dead), self._limits)
        return None

    def _finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        with self._transaction() as db:
            _forget_expired(db, self._clock())
            row = self._living(db, idem_key, body_hash)
            if row is None:
                check_record_room(_record_bytes(db), self._limits)
                cost = record_cost(b"", reply, 0)
                db.execute(
                    "INSERT INTO records (idem_key, body_hash, expires_at, cost, reply) VALUES (?,?,?,?,?)",
                    (idem_key, body_hash, self._clock() + self._limits.record_ttl_s, cost, reply),
                )
                _add_record_bytes(db, cost)
            elif row["reply"] is None:
                cost = record_cost(b"", reply, len(row["scores"]) // 8)
                db.execute(
                    "UPDATE records SET reply = ?, draft = NULL, cost = ? WHERE idem_key = ?", (reply, cost, idem_key)
                )
                _add_record_bytes(db, cost - row["cost"])
            else:
                return bytes(row["reply"])
        return reply

    def _ping(self) -> None:
        with self._transaction():
            pass

    def _remember(self, db: sqlite3.Connection, idempotency: IdempotencyRecord, result: CommitResult) -> None:
        """The record of a commit, in the commit's own transaction."""
        cost = record_cost(idempotency.draft, b"", len(result.scores))
        expires_at = self._clock() + self._limits.record_ttl_s
        entries = (result.epoch, result.seq_first, result.seq_last, *astuple(result.stats), _pack(result.scores))
        db.execute(
            "INSERT INTO records (idem_key, body_hash, expires_at, cost, epoch, seq_first, seq_last, count, mean, std,"
            " scores, draft) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (idempotency.key, idempotency.body_hash, expires_at, cost, *entries, idempotency.draft),
        )
        _add_record_bytes(db, cost)

    def _living(self, db: sqlite3.Connection, idem_key: str, body_hash: str) -> sqlite3.Row | None:
        """The unexpired record under this key. Raises `Conflict` for another body."""
        query = "SELECT * FROM records WHERE idem_key = ? AND expires_at > ?"
        row: sqlite3.Row | None = db.execute(query, (idem_key, self._clock())).fetchone()
        if row is not None:
            check_same_body(row["body_hash"], body_hash)
        return row

    def _check_queue_room(self, db: sqlite3.Connection) -> None:
        check_queue_room(db.execute("SELECT count(*) FROM queues").fetchone()[0], self._limits)


def _switch_to_wal(db: sqlite3.Connection, timeout_s: float) -> None:
    """Write-ahead logging, which the file keeps. SQLite's busy timeout does not cover this switch: try it again."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _create(db: sqlite3.Connection) -> int:
    """The file's version, after giving an empty file its tables and an old one its references."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
    elif version == 1:
        _add_references(db)
    else:
        return version
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return SCHEMA_VERSION


def _add_references(db: sqlite3.Connection) -> None:
    """From version 1 to 2. The first window of a full queue may be gone already; its present one stands in for it."""
    db.execute("ALTER TABLE queues ADD COLUMN reference BLOB NOT NULL DEFAULT x''")
    for row in db.execute("SELECT * FROM queues WHERE seq_last >= window").fetchall():
        if _is_whole(row):  # a damaged queue stays as it is, and is refused when it is read
            blob = row["scores"]
            values = (blob, zlib.crc32(blob, row["crc32"]), *row[:5])
            db.execute(_ADD_REFERENCE, values)


def _load(db: sqlite3.Connection, key: QueueKey) -> Queue | None:
    row = db.execute(_SELECT_QUEUE, astuple(key)).fetchone()
    return None if row is None else _queue_of(row)


def _queue_of(row: sqlite3.Row) -> Queue:
    """Raises `StoreUnavailable` when the stored scores are not those that were written."""
    window, seq_last = row["window"], row["seq_last"]
    sizes = (8 * min(seq_last, window), 8 * reference_size(seq_last, window))
    if not _is_whole(row) or (len(row["scores"]), len(row["reference"])) != sizes:
        raise StoreUnavailable("A reward queue in the store's file is damaged; delete it or restore the file.")
    scores, reference = _unpack(row["scores"]), _unpack(row["reference"])
    return Queue(QueueKey(*row[:5]), row["epoch"], window, seq_last, scores, reference)


def _is_whole(row: sqlite3.Row) -> bool:
    """Whether the queue's scores and reference are the bytes that were written."""
    return zlib.crc32(row["reference"], zlib.crc32(row["scores"])) == int(row["crc32"])


def _save(db: sqlite3.Connection, queue: Queue) -> None:
    scores, reference = _pack(queue.scores), _pack(queue.reference)
    crc32 = zlib.crc32(reference, zlib.crc32(scores))
    values = (*astuple(queue.key), queue.epoch, queue.window, queue.seq_last, scores, crc32, reference)
    db.execute("INSERT OR REPLACE INTO queues VALUES (?,?,?,?,?,?,?,?,?,?,?)", values)


def _replayed(row: sqlite3.Row) -> CommitResult:
    """The first result under a key. Raises `Conflict` when that request was answered without a commit."""
    if row["epoch"] is None:
        raise already_answered()
    stats = WindowStats(row["count"], row["mean"], row["std"])
    scores = _unpack(row["scores"])
    return CommitResult(row["epoch"], row["seq_first"], row["seq_last"], stats, scores, True, row["draft"])


def _forget_expired(db: sqlite3.Connection, now: float) -> None:
    gone = db.execute("DELETE FROM records WHERE expires_at <= ? RETURNING cost", (now,)).fetchall()
    if gone:
        _add_record_bytes(db, -sum(row["cost"] for row in gone))


def _record_bytes(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT record_bytes FROM totals").fetchone()[0])


def _add_record_bytes(db: sqlite3.Connection, more: int) -> None:
    db.execute("UPDATE totals SET record_bytes = record_bytes + ?", (more,))


def _pack(scores: tuple[float, ...]) -> bytes:
    """Little-endian doubles, 8 bytes each."""
    return struct.pack(f"<{len(scores)}d", *scores)


def _unpack(blob: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(blob) // 8}d", blob)
