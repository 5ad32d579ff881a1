"""The overload measurements see what they are there to see: lost, wrong and exchanged replies, hangs, half commits."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from rich.progress import Progress

from benchmarks.__main__ import parse
from benchmarks.counts import counted
from benchmarks.deadlines import until_empty
from benchmarks.drain import Round
from benchmarks.mixed import Asked, Tally, alone, draw, together
from benchmarks.saturation import Phase, _others, _until_normal
from benchmarks.wire import Cut, connected, get, post

Answer = Callable[[bytes], Awaitable[bytes | None]]


def reply(body: bytes, status: int = 200, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[str]:
    """A server that says what it is told to; None: it hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                said = await answer(head + await reader.readexactly(length))
                if said is None:
                    break
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


POOL = [Asked("pair", post("/x", {"number": number})) for number in range(10)]


async def measured(defect: Answer, count: int = 40) -> Tally:
    """A run against a server that is right while each is alone, and then has a defect."""
    is_alone = True

    async def answer(request: bytes) -> bytes | None:
        return await (right if is_alone else defect)(request)

    with Progress(disable=True) as quiet:
        async with scripted(answer) as url:
            expected = await alone(url, POOL, quiet)
            is_alone = False
            return await together(url, POOL, expected, count, 4, quiet)


async def right(request: bytes) -> bytes:
    """Its number, and how many tokens were cached, which nobody can foresee."""
    number = json.loads(request.partition(b"\r\n\r\n")[2])["number"]
    cached = int.from_bytes(request[-8:], "big") % 97
    return reply(b'{"is":%d,"cached_tokens":%d}' % (number, cached))


async def test_a_good_server_has_no_faults() -> None:
    tally = await measured(right)
    assert (tally.answered, tally.wrong, tally.mispaired, tally.lost) == (40, 0, 0, 0)
    assert tally.statuses == {200: 40}


async def test_replies_that_were_exchanged_are_noticed() -> None:
    calls = 0

    async def exchanged(request: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return await right(POOL[0].request if calls == 15 else request)

    tally = await measured(exchanged)
    assert (tally.wrong, tally.mispaired) in ((1, 1), (0, 0))  # number 0 may have been its own
    assert (await measured(lambda request: right(POOL[3].request))).mispaired == 36


async def test_wrong_numbers_errors_and_lost_replies_are_told_apart() -> None:
    calls = 0

    async def bad(request: bytes) -> bytes | None:
        nonlocal calls
        calls += 1
        other = {5: reply(b"{}"), 10: reply(b"{}", 500), 15: reply(b"{}", 422), 20: None}
        return other[calls] if calls in other else await right(request)

    tally = await measured(bad)
    assert (tally.wrong, tally.mispaired, tally.server_errors, tally.others, tally.lost) == (1, 0, 1, 1, 1)


async def test_a_pool_that_is_not_answered_well_is_no_measure() -> None:
    async def broken(request: bytes) -> bytes:
        return reply(b"{}", 503)

    async with scripted(broken) as url:
        with Progress(disable=True) as quiet, pytest.raises(RuntimeError, match="503"):
            await alone(url, POOL, quiet)


async def test_the_wire_tells_a_reply_that_was_cut_from_one_that_never_came() -> None:
    async def half(request: bytes) -> bytes | None:
        return b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\nhalf" if b"/half" in request else None

    async def answer(request: bytes) -> bytes | None:
        said = await half(request)
        if said is not None:
            asyncio.get_running_loop().call_later(0.05, server_gone.set)
        return said

    server_gone = asyncio.Event()
    async with scripted(answer) as url:
        async with connected(url) as connection:
            with pytest.raises(Cut) as cut:
                await connection.ask(get("/nothing"))
            assert not cut.value.begun
        async with connected(url) as connection:
            asking = asyncio.create_task(connection.ask(get("/half")))
            await server_gone.wait()
            connection.close(reset=True)
            with pytest.raises(Cut) as cut:
                await asking
            assert cut.value.begun


async def test_an_engine_that_is_never_empty_is_noticed() -> None:
    async def busy(request: bytes) -> bytes:
        return reply(b"gram_engine_unfinished 2.0\ngram_prompts_inside 0.0\n")

    async with scripted(busy) as url, connected(url) as connection:
        assert await until_empty(connection, 0.05) == float("inf")


def test_a_pool_has_every_kind_and_no_request_twice() -> None:
    pool = draw(300, 1, (1, 1, 1, 1, 1, 1))
    assert len({asked.request for asked in pool}) == 300
    assert len(Counter(asked.kind for asked in pool)) == 6
    assert draw(300, 1, (1, 1, 1, 1, 1, 1)) == pool != draw(300, 2, (1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("found", "hangs", "lies"),
    [
        (Round(10.0, status=0, seconds=1.0), False, False),
        (Round(10.0, status=1, seconds=11.0, expired=3), False, False),
        (Round(10.0, status=0, seconds=11.0, expired=3), False, True),
        (Round(10.0, status=1, seconds=1.0), False, True),
        (Round(10.0, status=-9, seconds=1.0), False, True),
        (Round(10.0, status=0, seconds=21.0), True, False),
        (Round(10.0, status=None), True, True),
    ],
)
def test_a_stop_that_hangs_or_misreports_is_noticed(found: Round, hangs: bool, lies: bool) -> None:
    assert (found.hangs, found.lies) == (hangs, lies)


def test_normal_again_is_a_whole_second_of_normal_times() -> None:
    after = Phase("after", 1, served=[(at / 10, 3.0 if at < 35 else 1.0) for at in range(100)])
    assert _until_normal(after, 1.0) == 5.0
    assert _until_normal(Phase("after", 1, served=[(1.0, 9.0)]), 1.0) == float("inf")


def test_statuses_that_were_not_promised_count() -> None:
    good = Phase("flood", 1, statuses=Counter({200: 5, 503: 3}))
    bad = Phase("flood", 1, statuses=Counter({200: 5, 500: 2}), lost=1)
    assert (_others([good]), _others([good, bad])) == (0, 3)


def test_a_share_is_never_nothing() -> None:
    assert counted(parse(["deadlines", "--small"]), 5000) == 50
    assert counted(parse(["deadlines", "--share", "0.5"]), 5000) == 2500
    assert counted(parse(["drain", "--small"]), 50, at_least=3) == 3
