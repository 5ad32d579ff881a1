"""Requests made from openapi.json, good and bad: no 5xx, and no reply that the description does not promise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.auth import ALL_SCOPES, hash_key
from service.engines.fake import GRAM_R2_ANSWER, encode_bytes
from tests.support.properties import bar, count, examples
from tests.support.serving import Api, listening

KEY = "fuzzing-key-of-some-length"
AUTH = {"auth": {"keys": [{"id": "fuzz", "sha256": hash_key(KEY), "scopes": sorted(ALL_SCOPES)}]}}
HEADERS = {"Authorization": f"Bearer {KEY}"}
PROMISED = json.loads((Path(__file__).parents[2] / "openapi.json").read_text())
OPERATIONS = [
    (path, method, mode)
    for path, methods in PROMISED["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    # A request without parameters cannot be wrong.
    if mode is GenerationMode.POSITIVE or operation.keys() & {"parameters", "requestBody"}
]


HASTE = {"limits": {"default_deadline_ms": 2000}, "cohorts": {"deadline_ms": 50}}
"""Members of groups that nobody else joins are not waited for."""


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(listening(AUTH | HASTE)) as api:
        yield api


ENOUGH_TOKENS = len(encode_bytes(GRAM_R2_ANSWER.format(verdict="A")))
"""A judgment of the fake engine has so many."""
FULL_COUNT = 20_000
EACH = 3 * FULL_COUNT // (2 * len(OPERATIONS))
"""Operations without a body have few different requests, and run out of them."""
QUIET: dict[str, Any] = {
    "database": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


def description() -> Any:
    """Without bad keys, which `call` would replace by a good one: test_access tries those."""
    generation = GenerationConfig(with_security_parameters=False)
    config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(generation=generation)))
    return schemathesis.openapi.from_dict(PROMISED, config=config)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_every_operation_keeps_its_promise(server: Api, path: str, method: str, mode: GenerationMode) -> None:
    operation = description()[path][method]

    @bar(EACH, **QUIET)
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        with requests.Session() as session:
            check(case, case.call(base_url=server.url, session=session, headers=HEADERS))

    holds()


def check(case: Any, reply: Any) -> None:
    """Every check of schemathesis, with what this API does on purpose.

    Some rules are no JSON schema (top_k needs its goal), so that a good request may be refused; a bad one may be too
    large to be looked at; a deadline of a few milliseconds is kept; and a judge that may write a few words only ends
    without a verdict.
    """
    excluded = [positive_data_acceptance]
    excluded += {413: [negative_data_rejection], 504: [not_a_server_error]}.get(reply.status_code, [])
    if reply.status_code == 502 and case.path == "/rationale" and reply.json()["error"]["code"] == "invalid_verdict":
        assert case.body["max_rationale_tokens"] < ENOUGH_TOKENS
        excluded.append(not_a_server_error)
    case.validate_response(reply, excluded_checks=excluded, headers=HEADERS)


@pytest.mark.slow
def test_requests_that_follow_from_each_other(server: Api) -> None:
    """Chains of calls: what one reply names, the next request asks for."""
    made = description().as_state_machine()

    class Caller(made):  # type: ignore[misc, valid-type]
        def setup(self) -> None:
            """What a chain finds must not hang on the chains before it: hypothesis would call that flaky."""
            with requests.Session() as session:
                session.headers.update(HEADERS)
                found = session.get(f"{server.url}/queues").json()["queues"]
                for name in {queue["name"] for queue in found}:  # of several windows one name
                    session.delete(f"{server.url}/queues/{quote(name, safe='')}").raise_for_status()

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"base_url": server.url, "headers": HEADERS}

        def validate_response(self, response: Any, case: Any, additional_checks: Any = None, **more: Any) -> None:
            count()
            check(case, response)

    wanted = settings(max_examples=examples(500), stateful_step_count=6, deadline=None, **QUIET)
    Caller.run(settings=wanted)
