"""Every method against the real application on the fake engine, sync and async."""

from __future__ import annotations

import asyncio

from gram_client import AsyncClient, Client, Group, Member, Normalize, Pair, Rationale, Referenced
from tests.support.serving import listening


def _judged(url: str) -> None:
    with Client(url) as judge:
        assert judge.ready()
        assert judge.compare("What is 7 + 5?", "12", "13").ok
        many = judge.compare_many([Pair("p", "a", "b", "x"), ("p", "", "b"), ("p", "b", "a")])
        assert [verdict.status for verdict in many] == ["ok", "failed", "ok"]
        assert many[2].p_first is not None
        assert many[0].p_first == 1 - many[2].p_first
        assert judge.rank("p", ["a", "b", "c"]).best in range(3)


def _scored(url: str) -> None:
    with Client(url) as judge:
        scores = judge.score_groups([Group("p", ["a", "b"]), Group("p", ["a", ""]), Group("q", ["a", "b"])])
        assert [(row.group, row.ok) for row in scores.rows] == [(0, True)] * 2 + [(1, False)] * 2 + [(2, True)] * 2
        queued = judge.score_references([Referenced("p", "a", "b")], normalize=Normalize("q")).queue
        assert queued is not None
        assert queued.count == judge.queues()[0].count == judge.queue("q")[0].count == 1
        assert len(judge.score_cohort([Member("p", "a", "g", 2, 0), Member("p", "b", "g", 2, 1)]).rewards) == 2


async def test_sync() -> None:
    async with listening() as api:
        await asyncio.to_thread(_judged, api.url)
        await asyncio.to_thread(_scored, api.url)


async def test_async() -> None:
    async with listening() as api, AsyncClient(api.url) as judge:
        assert (await judge.compare("p", "a", "b")).ok
        events = [event async for event in judge.stream_rationale("p", "a", "b", judge="gram_r2")]
        assert isinstance(events[-1], Rationale)
        assert len(events) > 2
