"""References in one SQLite file beside that of the reward queues: durable, shared by the processes of one machine.

A file of its own, so that writing thousands of references holds up no commit of scores. One worker thread owns the
connection and runs SQLite's blocking calls in order, each change as one ``BEGIN IMMEDIATE`` transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from service.errors import StartupError, StoreUnavailable
from service.stores.references_base import ReferenceLimits, check_room, cost

T = TypeVar("T")

SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS kept (prompt TEXT PRIMARY KEY, reference TEXT NOT NULL, cost INTEGER NOT NULL)"
    " WITHOUT ROWID"
)
_PUT = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)"
_MOST_PARAMETERS = 500


class SqliteReferences:
    """A `ReferenceStore` in the file at `path`."""

    def __init__(self, path: Path, limits: ReferenceLimits | None = None, busy_timeout_s: float = 5.0) -> None:
        self._path = path
        self._limits = limits or ReferenceLimits()
        self._busy_timeout_s = busy_timeout_s
        self._db: sqlite3.Connection | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reference-store")
        self._closed = False

    async def start(self) -> None:
        """See `ReferenceStore.start`."""
        await self._run(self._open)

    async def put(self, references: Mapping[str, str]) -> int:
        """See `ReferenceStore.put`."""
        return await self._run(lambda: self._put(references))

    async def get(self, keys: Sequence[str]) -> list[str | None]:
        """See `ReferenceStore.get`."""
        return await self._run(lambda: self._get(keys))

    async def close(self) -> None:
        """See `ReferenceStore.close`."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._worker, self._shut)
            self._worker.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailable("The reference store is closed; the service is shutting down.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, call)
        except sqlite3.Error as error:
            message = "The reference store's file cannot be used; check its disk and permissions."
            raise StoreUnavailable(message) from error

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
            self._db.execute("BEGIN IMMEDIATE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._shut()
            message = "The reference store's file cannot be opened; check store.path and permissions."
            raise StartupError(message) from error
        if version not in (0, SCHEMA_VERSION):
            self._shut()
            raise StartupError(f"The reference store's file has version {version}; name another file in store.path.")

    def _shut(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreUnavailable("The reference store is not open; the service is starting or shutting down.")
        return self._db

    def _put(self, references: Mapping[str, str]) -> int:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(_PUT, [(key, text, cost(text)) for key, text in references.items()])
            entries, kept_bytes = db.execute("SELECT count(*), coalesce(sum(cost), 0) FROM kept").fetchone()
            check_room(entries, kept_bytes, self._limits)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return int(entries)

    def _get(self, keys: Sequence[str]) -> list[str | None]:
        db = self._connection()
        found: dict[str, str] = {}
        for at in range(0, len(keys), _MOST_PARAMETERS):
            some = keys[at : at + _MOST_PARAMETERS]
            marks = ",".join("?" * len(some))
            query = f"SELECT prompt, reference FROM kept WHERE prompt IN ({marks})"  # noqa: S608 - question marks only
            found |= dict(db.execute(query, some).fetchall())
        return [found.get(key) for key in keys]
