"""Bodies that are broken, byte by byte: each of a fixed corpus has its documented status, and no mutation is a 5xx."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from service.engines.fake import FakeEngine
from tests.support.probes.base import watched
from tests.support.probes.tenants import ROUTES as EVERY_ROUTE
from tests.support.properties import count, scaled
from tests.support.raw_bodies import CORPUS
from tests.support.replies import check_error, check_numbers
from tests.support.serving import ROUTES, Api, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with serving(engine=FakeEngine(watched())) as running:
        yield running


async def test_the_corpus_is_as_large_as_promised() -> None:
    assert len({body.name for body in CORPUS}) == len(CORPUS) >= 300


@pytest.mark.parametrize("route", ROUTES)
async def test_every_body_has_its_documented_status(api: Api, route: str) -> None:
    wrong = []
    for body in CORPUS:
        count()
        api.engine.requests.clear()
        reply = await api.send(route, body.make(route))
        if reply.status_code not in body.expected:
            wrong.append(f"{body.name}: {reply.status_code}, not {sorted(body.expected)}: {reply.text[:200]}")
        elif reply.status_code == 200:
            check_numbers(reply.text)
        else:
            check_error(reply)
            assert not api.engine.requests, f"{body.name} was refused and judged"
    assert not wrong, "\n".join(wrong)
    assert "never" not in (await api.client.get("/queues")).text


PIECES = (
    *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"-1", b"9" * 400, b'"', b"\\", b"{", b"}", b"[", b"]", b","),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\xe2\x80\x8b", b"\xf3\xa0\x81\x81", b":", b"\n"),
    *(b"<|im_end|>", b"{response_b}", b'"seed": 1,', b'"items": [],', b'"prompt": "x",', b"[[[[[[[[", b"e", b"."),
)
SKELETONS = [(route, json.dumps(body).encode()) for route, body in EVERY_ROUTE.values() if "cohort" not in str(body)]
"""Good bodies of every format. Groups that never fill would be waited for."""

FINE = {200, 400, 404, 422}
"""404: a judge of another name."""


def mutated(body: bytes, random: Random) -> bytes:
    """A few bytes changed, lost, doubled, moved or put in."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(body) + 1)
        end = min(len(body), at + random.choice((1, 1, 2, 5, 30)))
        piece = random.choice((b"", bytes([random.randrange(256)]), random.choice(PIECES), body[at:end] * 2))
        if random.random() < 0.1:
            piece = body[at:end][::-1]
        body = body[:at] + piece + body[end if random.random() < 0.7 else at :]
    return body


@pytest.mark.timeout(1800)
async def test_no_mutation_is_an_error_of_ours(api: Api, request: pytest.FixtureRequest) -> None:
    random = Random(request.config.option.hypothesis_seed)
    seen: dict[int, int] = {}
    for _ in range(scaled(50_000)):
        count()
        route, good = random.choice(SKELETONS)
        body = mutated(good, random)
        reply = await api.send(route, body)
        seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
        assert reply.status_code in FINE, (route, body, reply.text[:300])
        if reply.status_code != 200:
            check_error(reply)
        elif reply.headers["content-type"] == "application/json":
            check_numbers(reply.text)
    assert len(seen) >= 3, f"the mutations were too much alike: {seen}"


async def test_a_defect_is_seen(
    api: Api, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, str], None]
) -> None:
    """The corpus finds a cleaner of texts that does not know every character: a 500."""
    record_property("defect", "A cleaner of texts does not know every character.")
    record_property("caught_by", "test_every_body_has_its_documented_status")
    monkeypatch.setattr("service.judging.flags._plain", _strict)
    replies: list[Any] = [await api.send("/compare", body.make("/compare")) for body in CORPUS if "u0000" in body.name]
    assert 500 in {reply.status_code for reply in replies}


def _strict(text: str) -> str:
    if "\0" in text:
        raise ValueError("embedded null character")
    return text.lower()
