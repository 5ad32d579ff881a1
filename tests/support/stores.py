"""How the store contract makes, shares and breaks each kind of store. A new store is one more `Backend` here."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from service.stores.base import RewardStore, StoreLimits
from service.stores.memory import MemoryStore
from service.stores.redis import RedisStore
from service.stores.redis_link import LinkOptions
from service.stores.sqlite import SqliteStore
from tests.support.redis_server import shared_server


class InjectedError(Exception):
    """Raised in the middle of a store's work."""


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Backend(ABC):
    """One kind of store. `durable`: what was acknowledged is there when the store is opened again."""

    name: str
    durable: bool

    @abstractmethod
    def make(self, folder: Path, limits: StoreLimits, clock: Callable[[], float]) -> RewardStore:
        """A store, not yet started, at `folder`."""

    @abstractmethod
    def replicas(self, folder: Path, count: int) -> list[RewardStore]:
        """`count` stores, not yet started, as `count` replicas of the service would share them."""

    @abstractmethod
    @contextmanager
    def fault(self, store: RewardStore, step: int) -> Iterator[None]:
        """Inside, the store's work fails at its `step`-th step, counted from 0; fewer steps: no fault."""


class MemoryBackend(Backend):
    name = "memory"
    durable = False

    def make(self, folder: Path, limits: StoreLimits, clock: Callable[[], float]) -> RewardStore:
        return MemoryStore(limits, clock)

    def replicas(self, folder: Path, count: int) -> list[RewardStore]:
        """Memory is shared within one process only, so all replicas are one store."""
        return [MemoryStore()] * count

    @contextmanager
    def fault(self, store: RewardStore, step: int) -> Iterator[None]:
        """A step is a line of the store's file, interrupted as Ctrl-C would interrupt it."""
        left = [step]

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if not frame.f_code.co_filename.endswith("stores/memory.py"):
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == -1:
                    raise InjectedError
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


class FailingConnection:
    """A SQLite connection whose `step`-th statement fails: on even steps before it ran, on odd ones after."""

    def __init__(self, real: sqlite3.Connection, step: int) -> None:
        self._real = real
        self._left, self._after = divmod(step, 2)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self._left -= 1
        if self._left != -1:
            return self._real.execute(*args)
        if self._after:
            self._real.execute(*args)
        raise sqlite3.OperationalError("injected")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class SqliteBackend(Backend):
    name = "sqlite"
    durable = True

    def make(self, folder: Path, limits: StoreLimits, clock: Callable[[], float]) -> RewardStore:
        return SqliteStore(folder / "rewards.sqlite", limits, clock)

    def replicas(self, folder: Path, count: int) -> list[RewardStore]:
        return [SqliteStore(folder / "shared.sqlite") for _ in range(count)]

    @contextmanager
    def fault(self, store: RewardStore, step: int) -> Iterator[None]:
        """A step is a statement, BEGIN and COMMIT among them, failing before or after it ran."""
        assert isinstance(store, SqliteStore)
        real = store._db
        assert real is not None
        store._db = FailingConnection(real, step)  # type: ignore[assignment]
        try:
            yield
        finally:
            store._db = real


PATIENT = LinkOptions(connect_timeout_s=20.0, timeout_s=20.0)
"""For tests that are not about time, on machines that are busy."""


class FailingWire:
    """What goes over a Redis connection, failing at its `step`-th step.

    A command is four steps, at which the connection breaks: before the command, in its middle, after it, after the
    reply was read.
    """

    def __init__(self, step: int) -> None:
        self._left = step
        self._send, self._read = AbstractConnection.send_packed_command, AbstractConnection.read_response

    def fails(self) -> bool:
        self._left -= 1
        return self._left == -1

    async def send(self, connection: AbstractConnection, command: Any, *args: Any, **kwargs: Any) -> None:
        if self.fails():
            await self._break(connection)
        data = b"".join(command) if not isinstance(command, bytes) else command
        if self.fails():
            await self._send(connection, [data[: len(data) // 2]], *args, **kwargs)
            await self._break(connection)
        await self._send(connection, [data], *args, **kwargs)

    async def read(self, connection: AbstractConnection, *args: Any, **kwargs: Any) -> Any:
        if self.fails():
            await asyncio.sleep(0.02)  # the server works; its reply is lost
            await self._break(connection)
        try:
            return await self._read(connection, *args, **kwargs)
        finally:
            if self.fails():
                await self._break(connection)

    async def _break(self, connection: AbstractConnection) -> None:
        await connection.disconnect(nowait=True)
        raise RedisConnectionError("injected")


class RedisBackend(Backend):
    """A prefix of its own for each folder, on this process's server."""

    name = "redis"
    durable = True

    def make(self, folder: Path, limits: StoreLimits, clock: Callable[[], float]) -> RewardStore:
        return RedisStore(shared_server().url, limits, clock, prefix_for(folder), PATIENT)

    def replicas(self, folder: Path, count: int) -> list[RewardStore]:
        prefix = prefix_for(folder / "shared")
        return [RedisStore(shared_server().url, prefix=prefix, options=PATIENT) for _ in range(count)]

    @contextmanager
    def fault(self, store: RewardStore, step: int) -> Iterator[None]:
        """A step is one of the points of `FailingWire`, on the way through a server that has forgotten all scripts."""
        shared_server().command("SCRIPT", "FLUSH")
        wire = FailingWire(step)
        before = AbstractConnection.send_packed_command, AbstractConnection.read_response

        async def send(connection: AbstractConnection, *args: Any, **kwargs: Any) -> None:
            await wire.send(connection, *args, **kwargs)

        async def read(connection: AbstractConnection, *args: Any, **kwargs: Any) -> Any:
            return await wire.read(connection, *args, **kwargs)

        AbstractConnection.send_packed_command, AbstractConnection.read_response = send, read  # type: ignore[method-assign]
        try:
            yield
        finally:
            AbstractConnection.send_packed_command, AbstractConnection.read_response = before  # type: ignore[method-assign]


def prefix_for(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:16]


BACKENDS: list[Backend] = [MemoryBackend(), SqliteBackend(), RedisBackend()]
