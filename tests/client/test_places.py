"""One client in many places: threads, event loops, forks, other processes, cancelled tasks."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gram_client import AsyncClient, Client, InvalidRequest, Retries
from tests.support.scripted_server import Say, Script, scripted

ROOT = Path(__file__).resolve().parents[2]
PAIR = ("p", "a", "b")


def _asked(judge: Client) -> float | None:
    return judge.compare(*PAIR).p_first


def _asked_anew(judge: AsyncClient) -> float | None:
    """On an event loop of its own."""

    async def one() -> float | None:
        return (await judge.compare(*PAIR)).p_first

    return asyncio.run(one())


def test_threads_share_one_client() -> None:
    with scripted(Say()) as server, Client(server.url) as judge, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: _asked(judge), range(80))) == [0.75] * 80
    assert server.connections <= 8


def test_a_loop_for_each_step_leaves_no_connection_behind() -> None:
    """As trainers do that run their rewards by asyncio.run."""
    with scripted(Say()) as server:
        judge = AsyncClient(server.url)
        assert [_asked_anew(judge) for _ in range(4)] == [0.75] * 4
        assert not judge._link._opened
        give_up_at = time.monotonic() + 10
        while server.ended < 4 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        assert (server.connections, server.ended) == (4, 4)


def test_loops_in_several_threads_share_one_client() -> None:
    with scripted(Say()) as server, ThreadPoolExecutor(4) as pool:
        judge = AsyncClient(server.url)
        assert list(pool.map(lambda _: _asked_anew(judge), range(12))) == [0.75] * 12


async def test_one_loop_keeps_its_connection() -> None:
    with scripted(Say()) as server:
        async with AsyncClient(server.url) as judge:
            for _ in range(5):
                await judge.compare(*PAIR)
    assert (server.connections, len(server.asked)) == (1, 5)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_copy_is_a_client_of_the_same_service(kind: Any) -> None:
    with scripted(Say()) as server:
        judge = kind(server.url, api_key="secret", judge="gram", timeout_s=3, retries=Retries(attempts=2), max_chunk=7)
        use = _asked if kind is Client else _asked_anew
        assert use(judge) == 0.75  # with connections open, which are not part of it
        for again in (pickle.loads(pickle.dumps(judge)), copy.deepcopy(judge)):
            assert again._settings == judge._settings
            assert use(again) == 0.75
            if kind is Client:
                again.close()
        if kind is Client:
            judge.close()
    assert {one.headers["authorization"] for one in server.asked} == {"Bearer secret"}


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Client(api_key="secret"))
    assert "secret" not in repr(Client(api_key="secret")._settings)


def test_a_spawned_process_gets_the_client_by_pickle() -> None:
    code = (
        "import pickle, sys\n"
        "judge = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(judge.compare('p', 'a', 'b').p_first)\n"
    )
    with scripted(Say()) as server, Client(server.url) as judge:
        command = [sys.executable, "-W", "error", "-c", code, pickle.dumps(judge).hex()]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "client")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "0.75", done.stderr


@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")
def test_a_forked_process_makes_connections_of_its_own() -> None:
    """The parent's connection, in use before and after, is never written to by the child."""
    context = multiprocessing.get_context("fork")
    with scripted(Say()) as server, Client(server.url) as judge:
        assert _asked(judge) == 0.75
        results = context.Queue()
        children = [context.Process(target=_forked, args=(judge, results)) for _ in range(3)]
        for child in children:
            child.start()
        assert [results.get(timeout=30) for _ in children] == [(0.75, True)] * 3
        for child in children:
            child.join(30)
        assert _asked(judge) == 0.75
    assert server.connections == 4


def _forked(judge: Client, results: Any) -> None:
    results.put((_asked(judge), os.getpid() in judge._link._opened))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_closed_client_says_so(kind: Any) -> None:
    judge = kind("http://127.0.0.1:9")
    if kind is Client:
        judge.close()
        judge.close()
        with pytest.raises(InvalidRequest, match="closed"):
            _asked(judge)
    else:

        async def closed() -> None:
            await judge.close()
            await judge.close()
            await judge.compare(*PAIR)

        with pytest.raises(InvalidRequest, match="closed"):
            asyncio.run(closed())


async def test_a_cancelled_call_ends_at_once_and_leaves_the_client_usable() -> None:
    with scripted(Say(after_s=30), Say()) as server:
        async with AsyncClient(server.url) as judge:
            task = asyncio.ensure_future(judge.compare(*PAIR))
            await _until_asked(server)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await judge.compare(*PAIR)).p_first == 0.75


async def _until_asked(server: Script) -> None:
    async with asyncio.timeout(10):
        while not server.asked:
            await asyncio.sleep(0.01)


def test_a_stream_that_is_left_closes_its_connection() -> None:
    event = b'event: text\ndata: {"order": "ab", "vote": 0, "text": "a"}\n\n'
    with scripted(Say(body=event * 2, stall=len(event))) as server, Client(server.url) as judge:
        events = judge.stream_rationale(*PAIR)
        next(events)
        started = time.monotonic()
        events.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 5


def test_many_calls_at_once_on_one_loop() -> None:
    async def all_of_them(url: str) -> list[float | None]:
        async with AsyncClient(url) as judge:
            verdicts = await asyncio.gather(*(judge.compare(*PAIR) for _ in range(100)))
        return [verdict.p_first for verdict in verdicts]

    with scripted(Say(after_s=0.05)) as server:
        assert asyncio.run(all_of_them(server.url)) == [0.75] * 100
