"""One call, made by the sync or by the async client: tests say it once and run it on both."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from gram_client import AsyncClient, Client, Retries

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")
QUICK = Retries(attempts=4, first_wait_s=0.0, max_wait_s=0.0)


def ask(kind: Kind, url: str, method: str, *arguments: Any, **named: Any) -> Any:
    """The result of one method of a new client. ``client`` in `named` are the client's own arguments.

    A stream comes back as the list of its events.
    """
    options = {"retries": QUICK, "timeout_s": 10.0} | named.pop("client", {})
    if kind == "sync":
        with Client(url, **options) as judge:
            result = getattr(judge, method)(*arguments, **named)
            return list(result) if method == "stream_rationale" else result
    return asyncio.run(_ask(url, method, arguments, named, options))


async def _ask(
    url: str, method: str, arguments: tuple[Any, ...], named: dict[str, Any], options: dict[str, Any]
) -> Any:
    async with AsyncClient(url, **options) as judge:
        result = getattr(judge, method)(*arguments, **named)
        if method == "stream_rationale":
            return [event async for event in result]
        return await result
