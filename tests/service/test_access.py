"""Every route, method and spelling of a path, with every way to ask without the right key: nothing opens."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio

from service.auth import ApiKey, Authenticator, hash_key
from service.errors import Unauthenticated
from tests.service.test_app import NEEDS, OPEN
from tests.support.access import (
    AUTH,
    KEYS,
    Attempt,
    attempts,
    expiry_ignored,
    keys_by_prefix,
    product,
    scopes_unchecked,
)
from tests.support.asgi import ask
from tests.support.properties import count, scaled
from tests.support.serving import BODIES, Api, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = json.dumps(BODIES["/compare"]).encode()
JSON = ("Content-Type", "application/json")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with serving(AUTH) as running:
        yield running


async def try_to_open(api: Api, method: str, target: str, attempt: Attempt) -> int:
    """The status. Whoever is refused has asked nothing of the engine."""
    count()
    before = api.engine.calls
    query = f"{'&' if '?' in target else '?'}{attempt.query}" if attempt.query else ""
    answer = await ask(api.app, method, target + query, (JSON, *attempt.headers), BODY)
    if answer.status >= 300:
        assert api.engine.calls == before, (method, target, attempt.name)
        error = json.loads(answer.body)["error"]
        assert error["code"] in ("unauthenticated", "forbidden", "not_found", "method_not_allowed", "invalid_input")
    return answer.status


def opens(method: str, path: str, attempt: Attempt) -> bool:
    """Whether the attempt is a key for the route."""
    needed = NEEDS.get((method, path))
    return attempt.scope is not None and (method, path) in NEEDS and needed in (None, attempt.scope)


async def bypasses(api: Api, cases: list[tuple[str, str, str, Attempt]]) -> list[str]:
    """What was let in, or answered in a way that only the inside of a route could have."""
    found = []
    for method, path, target, attempt in cases:
        if opens(method, path, attempt):
            continue
        status = await try_to_open(api, method, target, attempt)
        if status not in (401, 403, 404, 405):
            found.append(f"{method} {target} with {attempt.name}: {status}")
    return found


async def test_each_route_refuses_each_wrong_key_for_what_it_is(api: Api) -> None:
    for method, path in NEEDS:
        for attempt in attempts():
            status = await try_to_open(api, method, path.replace("{name}", "q"), attempt)
            if opens(method, path, attempt):
                assert status in (200, 404, 422), (method, path, attempt.name)
            else:
                assert status == (403 if attempt.scope else 401), (method, path, attempt.name)


async def test_no_method_and_no_spelling_is_a_way_in(api: Api) -> None:
    cases = product(sorted(NEEDS))
    wanted = scaled(len(cases))
    cases = cases if wanted >= len(cases) else Random(1).sample(cases, wanted)
    assert not await bypasses(api, cases)


async def test_only_the_probes_are_open(api: Api) -> None:
    for path in sorted(OPEN):
        for attempt in attempts():
            assert await try_to_open(api, "GET", path, attempt) == 200


@pytest.mark.parametrize("defect", [scopes_unchecked, expiry_ignored, keys_by_prefix])
async def test_a_defect_is_seen(defect: Any, record_property: Callable[[str, str], None]) -> None:
    record_property("defect", defect.__doc__)
    record_property("caught_by", "test_each_route_refuses_each_wrong_key_for_what_it_is")
    cases = [(method, path, path, attempt) for method, path in sorted(NEEDS) for attempt in attempts()]
    with defect():
        async with serving(AUTH) as api:
            assert await bypasses(api, cases)


@pytest.mark.parametrize("presented", ["", "Bearer x", f"Bearer {KEYS['score']}", f"Bearer {KEYS['metrics'][:-1]}"])
async def test_every_key_is_compared_whole_and_in_constant_time(presented: str) -> None:
    """Equal lengths, all of them, whichever one fits: what a caller can time does not depend on how much is right."""
    gate = Authenticator([ApiKey(scope, hash_key(key), [scope]) for scope, key in KEYS.items()])
    with mock.patch("service.auth.hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        try:
            gate.authenticate(presented)
        except Unauthenticated:
            assert presented != f"Bearer {KEYS['score']}"
    assert compare.call_count == len(KEYS)
    assert {len(side) for call in compare.call_args_list for side in call.args} == {64}
