"""What only real connections show: callers that hang up, bodies in pieces, events as they are written."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import pytest_asyncio

from service.engines.fake import FakeEngine
from tests.support.serving import BODIES, PAIR, ROUTES, Api, listening, options, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 64 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Api]:
    async with listening({"limits": {"max_body_bytes": LIMIT}}, FakeEngine(options())) as api:
        yield api


@pytest_asyncio.fixture(loop_scope="module")
async def api(server: Api) -> AsyncIterator[Api]:
    server.engine.aborted = server.engine.calls = 0
    yield server
    server.engine.options = options()
    await until(lambda: server.admission.held == server.admission.running == server.engine.in_flight == 0)


@asynccontextmanager
async def connect(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def request(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def whole(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return request(path, data, f"Content-Length: {len(data)}")


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split(" ")[1]), json.loads(await reader.readexactly(length))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_hanging_up_aborts_what_was_asked(api: Api, route: str, how: str) -> None:
    api.engine.options = options(delay_s=30)
    async with connect(api) as (_, writer):
        writer.write(whole(route, BODIES[route]))
        await until(lambda: api.engine.in_flight > 0)
        asked = api.engine.calls
        if how == "reset":
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        await until(lambda: api.engine.in_flight == 0)
        assert api.engine.aborted == asked
        assert (await api.client.get("/queues")).json() == {"queues": []}


async def test_hanging_up_with_other_requests_behind_aborts_the_one_at_work(api: Api) -> None:
    api.engine.options = options(delay_s=30)
    async with connect(api) as (_, writer):
        writer.write(whole("/compare", PAIR) * 3)
        await until(lambda: api.engine.in_flight == 2)
        writer.close()
        await until(lambda: api.engine.in_flight == api.admission.running == 0)
        assert (api.engine.calls, api.engine.aborted) == (2, 2)


async def test_hanging_up_in_a_stream_aborts_what_was_asked(api: Api) -> None:
    api.engine.options = options(token_delay_s=0.05)
    async with connect(api) as (reader, writer):
        writer.write(whole("/rationale", PAIR | {"stream": True}))
        await reader.readuntil(b"event: text")
        assert api.engine.in_flight == 2
        writer.close()
        await until(lambda: api.engine.in_flight == 0)


@pytest.mark.parametrize("path", ["/compare", "/queues/q/import"])
async def test_hanging_up_before_the_body_is_complete_asks_nothing_and_is_no_error(api: Api, path: str) -> None:
    def counted(status: str) -> float:
        samples = [one for family in api.app.state.gate.metrics.requests.collect() for one in family.samples]
        return sum(one.value for one in samples if one.labels["status"] == status)

    gone, failed = counted("499"), counted("500")
    async with connect(api) as (_, writer):
        writer.write(request(path, b'{"prompt":', "Content-Length: 1000"))
        await until(lambda: api.admission.running == 1)
        writer.close()
        await until(lambda: api.admission.running == 0)
        assert api.engine.calls == 0
        await until(lambda: counted("499") + counted("500") == gone + failed + 1)
        assert counted("500") == failed


async def test_the_metric_of_a_caller_who_left(api: Api) -> None:
    def left() -> float:
        return api.app.state.gate.metrics.requests.value("/compare", "499")  # type: ignore[no-any-return]

    before = left()
    api.engine.options = options(delay_s=30)
    async with connect(api) as (_, writer):
        writer.write(whole("/compare", PAIR))
        await until(lambda: api.engine.in_flight == 2)
        writer.close()
        await until(lambda: left() == before + 1)


async def test_events_arrive_while_the_judge_still_writes(api: Api) -> None:
    api.engine.options = options(token_delay_s=0.02)
    async with api.client.stream("POST", "/rationale", json=PAIR | {"stream": True}) as reply:
        lines = reply.aiter_lines()
        assert await anext(lines) == "event: text"
        assert api.engine.in_flight == 2
        rest = [line async for line in lines]
    assert reply.headers["cache-control"] == "no-store"
    assert "event: verdict" in rest


def padded(size: int) -> bytes:
    """A good body of exactly `size` bytes."""
    body = json.dumps(PAIR).encode()
    return body[:-1] + b" " * (size - len(body)) + b"}"


async def pieces(body: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize(("size", "status"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413), (4 * LIMIT, 413)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_limit_is_exact(api: Api, size: int, status: int, chunked: bool) -> None:
    body = padded(size)
    headers = {"Content-Type": "application/json"}
    reply = await api.client.post("/compare", content=pieces(body) if chunked else body, headers=headers)
    assert ("content-length" in reply.request.headers) != chunked
    assert reply.status_code == status
    if status == 413:
        error = reply.json()["error"]
        assert (error["code"], error["details"]) == ("body_too_large", {"limit": LIMIT})
        assert error["request_id"] == reply.headers["x-request-id"]


async def test_a_large_announcement_is_refused_before_the_body_comes(api: Api) -> None:
    async with connect(api) as (reader, writer):
        writer.write(request("/compare", b"", "Content-Length: 99999999999999"))
        status, body = await asyncio.wait_for(read_reply(reader), 5)
        assert (status, body["error"]["code"]) == (413, "body_too_large")  # type: ignore[index]
        writer.close()


async def test_who_sends_a_large_body_to_its_end_reads_why_it_is_refused(api: Api) -> None:
    """Most clients look for a reply only then. A connection that is closed before that throws the reply away too."""

    def send_all() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(api.url.rpartition(":")[2]), timeout=30)
        connection.request("POST", "/compare", b" " * (24 * 1024 * 1024), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()

    for _ in range(3):
        status, body = await asyncio.to_thread(send_all)
        assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


async def test_a_body_without_end_is_not_read_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.middleware.LINGER_BYTES", 256 * 1024)
    async with connect(api) as (reader, writer):
        writer.write(request("/compare", b"", "Content-Length: 99999999999999"))
        assert (await asyncio.wait_for(read_reply(reader), 5))[0] == 413
        with pytest.raises(OSError):
            for _ in range(1000):
                writer.write(b" " * 64 * 1024)
                await asyncio.wait_for(writer.drain(), 4)


async def test_a_caller_who_never_ends_its_large_body_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.middleware.LINGER_S", 0.1)
    async with connect(api) as (reader, writer):
        writer.write(request("/compare", b"", "Content-Length: 99999999999999"))
        status, _ = await asyncio.wait_for(read_reply(reader), 5)
        assert status == 413
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_body_in_many_small_pieces_is_read(api: Api) -> None:
    async with connect(api) as (reader, writer):
        data = json.dumps(PAIR).encode()
        writer.write(request("/compare", b"", f"Content-Length: {len(data)}"))
        for start in range(0, len(data), 3):
            writer.write(data[start : start + 3])
            await writer.drain()
            await asyncio.sleep(0)
        status, body = await read_reply(reader)
        assert (status, body["status"]) == (200, "ok")
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"POST /compare HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /compare HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /compare HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_broken_http_gets_no_5xx_and_kills_nothing(api: Api, raw: bytes) -> None:
    async with connect(api) as (reader, writer):
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(100), 5)
        assert not answer or b" 4" in answer.split(b"\r\n")[0]
        writer.close()
        assert (await api.client.get("/livez")).status_code == 200


async def test_one_connection_carries_many_requests(api: Api) -> None:
    async with connect(api) as (reader, writer):
        for _ in range(5):
            writer.write(whole("/compare", PAIR))
        replies = [await read_reply(reader) for _ in range(5)]
        assert {status for status, _ in replies} == {200}
        writer.close()


def rollout(index: int, size: int = 8) -> bytes:
    cohort = {"group_id": "sockets", "size": size, "index": index}
    item = {"prompt": PAIR["prompt"], "response": f"answer {index}", "cohort": cohort}
    return whole("/score", {"items": [item], "normalize": {"queue": "sockets", "min_count": 2}})


async def test_eight_clients_post_one_rollout_each_and_one_hangs_up(api: Api) -> None:
    """The one who hung up has left its response in the group, and gets its row when it comes again."""

    def waiting() -> int:
        return int(api.app.state.service.cohorts.waiting)

    async def post(index: int) -> dict[str, Any]:
        async with connect(api) as (reader, writer):
            writer.write(rollout(index))
            status, reply = await asyncio.wait_for(read_reply(reader), 20)
            writer.close()
        assert status == 200, reply
        return reply

    async with connect(api) as (_, writer):
        writer.write(rollout(3))
        await until(lambda: waiting() == 1)
        writer.close()
        await until(lambda: waiting() == 0)
    replies = await asyncio.gather(*(post(index) for index in range(8) if index != 3))
    replies = [*replies[:3], await post(3), *replies[3:]]
    assert [reply["results"][0]["index"] for reply in replies] == list(range(8))
    assert sum(reply["results"][0]["score"] for reply in replies) == pytest.approx(4.0)
    assert sum(reply["usage"]["comparisons"] for reply in replies) == 28
    assert len({json.dumps(reply["queue"]) for reply in replies}) == 1
    assert (replies[0]["queue"]["seq_first"], replies[0]["queue"]["seq_last"]) == (1, 8)
    assert (await api.client.delete("/queues/sockets")).status_code == 200
