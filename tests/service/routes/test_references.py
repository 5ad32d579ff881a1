"""Stored references: PUT /references, the file at start-up, and items of /score that name none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.errors import StartupError
from tests.support.serving import Api, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT, RESPONSE, REFERENCE = "What is 7 + 5?", "12", "13"
PAIRWISE = {"judges": [{"name": "gram", "family": "gram"}]}


async def put(api: Api, *items: dict[str, Any]) -> dict[str, Any]:
    reply = await api.client.put("/references", json={"items": list(items)})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def score(api: Api, *items: dict[str, Any], **more: Any) -> Any:
    return await api.post("/score", {"items": list(items), **more})


async def test_an_item_without_a_reference_is_compared_with_the_stored_one() -> None:
    async with serving(PAIRWISE) as api:
        item = {"prompt": PROMPT, "response": RESPONSE}
        chat = {"prompt": [{"role": "user", "content": PROMPT}], "response": RESPONSE}
        assert await put(api, {"prompt": PROMPT, "reference": REFERENCE}) == {"stored": 1, "total": 1}
        found = (await score(api, item, chat)).json()["results"]
        expected = (await score(api, item | {"reference": REFERENCE})).json()["results"][0]
        assert found == [expected, expected]


async def test_a_new_reference_is_what_counts_from_then_on() -> None:
    async with serving(PAIRWISE) as api:
        for number in range(2):
            assert (await put(api, {"prompt": PROMPT, "reference": f"answer {number}"}))["total"] == 1
        found = (await score(api, {"prompt": PROMPT, "response": "answer 1"})).json()["results"][0]
        assert found["score"] == 0.5


async def test_prompts_without_one_are_counted_and_the_first_is_named() -> None:
    async with serving(PAIRWISE) as api:
        await put(api, {"prompt": PROMPT, "reference": REFERENCE})
        reply = await score(api, {"prompt": PROMPT, "response": "x"}, {"prompt": "other", "response": "x"})
        error = reply.json()["error"]
        assert (reply.status_code, error["details"]["field"]) == (422, "items[1]")
        assert "PUT /references (1 have none)" in error["message"]


async def test_their_scores_enter_the_queue_of_references() -> None:
    async with serving(PAIRWISE) as api:
        await put(api, {"prompt": PROMPT, "reference": REFERENCE})
        normalize = {"queue": "run", "min_count": 1}
        for _ in range(2):
            reply = await api.client.post(
                "/score",
                json={"items": [{"prompt": PROMPT, "response": RESPONSE}], "normalize": normalize},
                headers={"Idempotency-Key": "once"},
            )
            assert reply.status_code == 200
        (queue,) = (await api.client.get("/queues/run")).json()["queues"]
        assert (queue["score_kind"], queue["seq_last"]) == ("reference", 1)


async def test_a_scalar_judge_needs_none(api: Api) -> None:
    reply = await score(api, {"prompt": "nobody stored anything for this", "response": "x"})
    assert reply.json()["judge_version"]["judge"] == "scalar"
    named = await score(api, {"prompt": "nobody stored anything for this", "response": "x"}, judge="gram")
    assert named.status_code == 422


@pytest.mark.parametrize(
    "items", [[], [{"prompt": "", "reference": "x"}], [{"prompt": "x"}], [{"prompt": "x", "reference": " "}], None]
)
async def test_what_is_no_reference_is_refused(api: Api, items: Any) -> None:
    assert (await api.client.put("/references", json={"items": items})).status_code == 422


async def test_a_full_store_says_so() -> None:
    async with serving(PAIRWISE | {"references": {"max_entries": 1}}) as api:
        await put(api, {"prompt": PROMPT, "reference": REFERENCE})
        reply = await api.client.put("/references", json={"items": [{"prompt": "other", "reference": "x"}]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")


async def test_a_file_brings_references_at_each_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gram.references")
    path = tmp_path / "references.jsonl"
    rows = [
        {"prompt": PROMPT, "reference": "old"},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "reference": "Hi"},
        {"prompt": PROMPT, "reference": RESPONSE},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    async with serving(PAIRWISE | {"references": {"file": str(path)}}) as api:
        assert "3 references were read" in caplog.text, "empty lines are none"
        found = (await score(api, {"prompt": PROMPT, "response": RESPONSE})).json()["results"][0]
        assert found["score"] == 0.5, "compared with itself"
        assert (await put(api, {"prompt": "new", "reference": "x"}))["total"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "x", "reference": "y"}\n{"prompt": "x"}\n', "Line 2 .* reference: Field required"),
        ("no json\n", "Line 1 .*Invalid JSON"),
        ('{"prompt": "x", "reference": "y", "more": 1}\n', "Line 1 .* more: Extra inputs"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
async def test_a_file_that_is_wrong_stops_the_start(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "references.jsonl"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StartupError, match=message):
        async with serving(PAIRWISE | {"references": {"file": str(path)}}):
            pass


async def test_a_file_larger_than_the_store_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "reference": "x"}) + "\n" for i in range(3)))
    with pytest.raises(StartupError, match="cannot be stored"):
        async with serving(PAIRWISE | {"references": {"file": str(path), "max_entries": 2}}):
            pass
