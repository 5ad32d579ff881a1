"""The connection to Redis: scripts by their hash, every call bounded in time, every failure a `StoreUnavailable`.

redis-py retries ten times with back-off unless told otherwise, which turns a dead server into seconds of waiting in
every request. Here nothing is retried: the caller's idempotency key makes its own retry safe, and the breaker keeps
calls away from a server that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from service.errors import StartupError, StoreUnavailable
from service.stores.breaker import Breaker

T = TypeVar("T")
Argument = str | bytes | int

_SCRIPTS = files("service.stores") / "scripts"
_RIGHTS = "Redis refuses the store's user; correct the password in store.url or the rights of that user."
_SAYINGS: tuple[tuple[type[RedisError], str], ...] = (
    (BusyLoadingError, "Redis is still loading its data; send the request again shortly."),
    (AuthenticationError, _RIGHTS),
    (AuthorizationError, _RIGHTS),
    (NoPermissionError, _RIGHTS),
    (OutOfMemoryError, "Redis has reached its maxmemory; raise it, or delete unused queues."),
    (ReadOnlyError, "Redis is a read-only replica; name its primary in store.url."),
    (TimeoutError, "Redis did not answer in time; send the request again with the same Idempotency-Key."),
    (ConnectionError, "Redis cannot be reached; start it or correct store.url."),
)
_WORDS = {
    "NOAUTH": _RIGHTS,
    "LOADING": "Redis is still loading its data; send the request again shortly.",
    "OOM": "Redis has reached its maxmemory; raise it, or delete unused queues.",
    "READONLY": "Redis is a read-only replica; name its primary in store.url.",
    "MISCONF": "Redis cannot write to its disk; look at its log.",
    "WRONGTYPE": "Redis holds another program's keys under this prefix; set store.prefix to one of its own.",
    "MOVED": "This is a Redis cluster; name a single Redis server in store.url.",
}
"""Codes of replies that redis-py has no class for, or that come from within a script, somewhere in the reply."""

NOT_ANSWERED = (ConnectionError, TimeoutError, OSError, asyncio.TimeoutError)
"""What opens the breaker. A server that refuses has answered; it costs no waiting and may still be read."""


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """``connect_timeout_s`` and ``timeout_s`` bound connecting and an answer; together, any one call."""

    connect_timeout_s: float = 0.5
    timeout_s: float = 0.5
    max_connections: int = 64


class Script:
    """A Lua file of `scripts/`, with what stands before all of them, and the hash the server knows it by."""

    def __init__(self, name: str) -> None:
        self.source = "".join((_SCRIPTS / part).read_text(encoding="utf-8") for part in ("common.lua", f"{name}.lua"))
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class RedisLink:
    """One pool of connections to the server at `url`. Raises `StartupError` for a URL that is none.

    The URL may hold a password and is in no message.
    """

    def __init__(self, url: str, options: LinkOptions | None = None, breaker: Breaker | None = None) -> None:
        self._options = options or LinkOptions()
        self._breaker = breaker or Breaker()
        self._closed = False
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=self._options.max_connections,
                timeout=self._options.timeout_s,
                socket_connect_timeout=self._options.connect_timeout_s,
                socket_timeout=self._options.timeout_s,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # no handshake beyond AUTH and SELECT
                driver_info=None,
            )
            self._redis = Redis.from_pool(pool)
        except (ValueError, TypeError, RedisError):
            raise StartupError("store.url is no Redis address; write redis://user:password@host:6379/0.") from None

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        """What the script returns; a server that does not know it, new or flushed, is told."""

        async def call() -> list[Any]:
            try:
                reply = await self._execute("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                reply = await self._execute("EVAL", script.source, len(keys), *keys, *arguments)
            return list(reply)

        return await self._call(call)

    async def command(self, *arguments: Argument) -> Any:
        """What one command returns."""
        return await self._call(lambda: self._execute(*arguments))

    async def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """What several commands return, sent together; others may come between them."""

        async def call() -> list[Any]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for arguments in commands:
                    pipe.execute_command(*arguments)
                return list(await pipe.execute())

        return await self._call(call)

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        if not self._closed:
            self._closed = True
            await self._redis.aclose()

    async def _execute(self, *arguments: Argument) -> Any:
        return await self._redis.execute_command(*arguments)  # type: ignore[no-untyped-call]

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Within its time and the breaker's leave. Raises `StoreUnavailable` for all that goes wrong."""
        if self._closed:
            raise StoreUnavailable("The reward store is closed; the service is shutting down.")
        try:
            with self._breaker.attempt(*NOT_ANSWERED):
                async with asyncio.timeout(self._options.connect_timeout_s + self._options.timeout_s):
                    return await call()
        except (RedisError, OSError) as error:  # asyncio's TimeoutError is an OSError
            if isinstance(error, ReadOnlyError):  # after a failover the address may lead to another server
                with contextlib.suppress(RedisError, OSError):
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise StoreUnavailable(_saying(error), retry_after_s=1) from error


def _saying(error: Exception) -> str:
    """One sentence that says what to do. What the server or the library wrote may hold addresses and stays out."""
    if isinstance(error, asyncio.TimeoutError):
        error = TimeoutError()
    if isinstance(error, ResponseError):
        words = [word.strip("-:") for word in str(error).split()]
        for word in words:
            if word in _WORDS:
                return _WORDS[word]
    for kind, saying in _SAYINGS:
        if isinstance(error, kind):
            return saying
    if isinstance(error, OSError):
        return "Redis cannot be reached; start it or correct store.url."
    return "Redis refused a command of the reward store; look at its log and version (6.2 or later)."
