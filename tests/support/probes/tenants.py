"""Family 16: what callers could learn of each other from the time that an answer takes."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from service.auth import hash_key
from tests.support.probes.base import Family, Probe, asked
from tests.support.service_defects import one_salt_for_all
from tests.support.serving import Api

LONG = "Tell me a long story about the sea. " * 6
ANSWER = {"role": "assistant", "content": "one"}
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "compare": ("/compare", {"prompt": LONG, "response_a": "one", "response_b": "two"}),
    "compare, a batch": ("/compare", {"items": [{"prompt": LONG, "response_a": "one", "response_b": "two"}]}),
    "rank": ("/rank", {"prompt": LONG, "responses": ["one", "two", "three"]}),
    "rationale": ("/rationale", {"prompt": LONG, "response_a": "one", "response_b": "two"}),
    "rationale, votes": ("/rationale", {"prompt": LONG, "response_a": "one", "response_b": "two", "votes": 2}),
    "rationale, streamed": ("/rationale", {"prompt": LONG, "response_a": "one", "response_b": "two", "stream": True}),
    "score, references": ("/score", {"items": [{"prompt": LONG, "response": "one", "reference": "two"}]}),
    "score, groups": ("/score", {"groups": [{"prompt": LONG, "responses": ["one", "two"]}]}),
    "score, single": ("/score", {"judge": "scalar", "items": [{"prompt": LONG, "response": "one"}]}),
    "score, cohorts": (
        "/score",
        {
            "items": [
                {"prompt": LONG, "response": text, "cohort": {"group_id": "g", "size": 2, "index": index}}
                for index, text in enumerate(("one", "two"))
            ]
        },
    ),
    "get_reward": ("/get_reward", {"query": [LONG + "one", LONG + "two"], "prompts": [LONG, LONG]}),
    "get_reward, labels": ("/get_reward", {"query": [LONG + "one"], "prompts": [LONG], "labels": ["two"]}),
    "remote_rm": ("/remote_rm", {"prompt": LONG, "response": "one", "label": "two"}),
    "classify": ("/classify", {"model": "scalar", "messages": [{"role": "user", "content": LONG}, ANSWER]}),
    "rerank": ("/rerank", {"query": LONG, "documents": ["one", "two"]}),
    "rerank, second version": ("/v2/rerank", {"query": LONG, "documents": ["one", {"text": "two"}]}),
    "rerank, scalar": ("/v1/rerank", {"model": "scalar", "query": LONG, "documents": ["one", "two"]}),
}
"""Every way to have something judged."""

KEYS = {"one": "one" * 12, "two": "two" * 12}
AUTH = {
    "auth": {
        "keys": [{"id": name, "sha256": hash_key(key), "scopes": ["score"]} for name, key in KEYS.items()],
        "secret": "s" * 32,
    }
}


async def _apart(api: Api, name: str) -> None:
    """Every prompt carries its caller's salt, and the other caller's question finds nothing of it in the cache."""
    route, body = ROUTES[name]
    salts: dict[str, set[str | None]] = {}
    cached: dict[str, int | None] = {}
    api.engine._cache._blocks.clear()
    for caller, key in KEYS.items():
        reply, requests = await asked(api, route, body, Authorization=f"Bearer {key}")
        assert reply.status_code == 200, reply.text[:300]
        assert requests
        salts[caller] = {request.cache_salt for request in requests}
        assert not any(str(salt) in reply.text for salt in salts[caller])
        cached[caller] = _cached(reply.text)
    assert [len(found) for found in salts.values()] == [1, 1]
    assert None not in salts["one"] | salts["two"]
    assert salts["one"].isdisjoint(salts["two"]), "both callers read one cache"
    assert cached["one"] == cached["two"], "the second caller sees what the first one asked"


def _cached(text: str) -> int | None:
    """The cached tokens that a reply tells of."""
    data = text.rpartition("event: verdict\ndata: ")[2] if text.startswith("event:") else text
    usage = json.loads(data).get("usage", {}) if data.startswith("{") else {}
    found: int | None = usage.get("cached_tokens")
    return found


TENANTS = Family(
    "16",
    "other callers' caches",
    "Prefix caches, kept answers and groups belong to one key: the timing of a prompt tells nothing of other callers.",
    tuple(Probe(name, partial(_apart, name=name)) for name in ROUTES),
    one_salt_for_all,
    AUTH,
)
