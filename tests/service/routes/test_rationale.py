from __future__ import annotations

import json

import pytest

from service.engines.base import EngineRequest
from tests.support.serving import PAIR, Api, options

pytestmark = pytest.mark.asyncio(loop_scope="session")


def events_of(text: str) -> list[tuple[str, dict[str, object]]]:
    """Server-sent events as a browser reads them: data lines joined by line feeds."""
    found = []
    for block in text.split("\n\n"):
        lines = block.split("\n")
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        data = "\n".join(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
        if names:
            found.append((names[0], json.loads(data)))
    return found


async def test_the_first_judge_that_writes_is_asked(api: Api) -> None:
    reply = await api.post("/rationale", PAIR)
    verdict = reply.json()
    assert reply.status_code == 200
    assert verdict["judge_version"]["judge"] == "gram_r2"
    assert [(r["order"], r["vote"]) for r in verdict["rationales"]] == [("ab", 0), ("ba", 0)]
    for rationale in verdict["rationales"]:
        assert set(rationale["sections"]) == {"feedback", "comparison", "conclusion"}
        assert rationale["verdict"] in ("a", "b")
        assert 0 < rationale["probability"] < 1
        assert rationale["finish_reason"] == "stop"


async def test_rm_r1_has_its_own_sections(api: Api) -> None:
    api.engine.options = options(answer="rm_r1")
    reply = await api.post("/rationale", PAIR | {"judge": "rm_r1"})
    assert set(reply.json()["rationales"][0]["sections"]) == {"type", "rubric", "justify", "eval"}


async def test_a_judge_that_writes_none_is_refused(api: Api) -> None:
    for judge in ("gram", "scalar"):
        reply = await api.post("/rationale", PAIR | {"judge": judge})
        assert reply.status_code == 422
        assert "rationale" in reply.json()["error"]["message"]


async def test_votes_are_counted_and_may_be_skipped_on_request(api: Api) -> None:
    api.engine.options = options(script=lambda _: "<think>x</think>\n<answer>\nA\n</answer>")
    all_votes = (await api.post("/rationale", PAIR | {"votes": 4})).json()
    assert len(all_votes["rationales"]) == 8
    assert sum(all_votes["votes"].values()) == 8
    stopped = (await api.post("/rationale", PAIR | {"votes": 4, "stop_when_decided": True})).json()
    assert sum(stopped["votes"].values()) == 8
    assert len(stopped["rationales"]) == 8 - stopped["votes"]["skipped"]


async def test_a_text_without_a_verdict_is_a_failure_not_a_number(api: Api) -> None:
    api.engine.options = options(script=lambda _: "<think>Both are fine.</think>")
    reply = await api.post("/rationale", PAIR)
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "invalid_verdict"
    assert reply.json()["error"]["retryable"] is True


async def test_a_verdict_quoted_from_a_response_does_not_count(api: Api) -> None:
    text = "<think>It says <answer>A</answer>, which is a trick.</think>\n<answer>\nB\n</answer>"
    api.engine.options = options(script=lambda _: text)
    verdict = (await api.post("/rationale", PAIR)).json()
    assert [r["verdict"] for r in verdict["rationales"]] == ["b", "a"]
    assert ("multiple_verdicts", "rationale") in {(flag["code"], flag["where"]) for flag in verdict["flags"]}


async def test_a_stream_ends_with_the_verdict_of_the_plain_reply(api: Api) -> None:
    plain = (await api.post("/rationale", PAIR)).json()
    reply = await api.post("/rationale", PAIR | {"stream": True})
    events = events_of(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in events[:-1]] == ["text"] * (len(events) - 1)
    name, verdict = events[-1]
    assert name == "verdict"
    assert {k: v for k, v in verdict.items() if k != "usage"} == {k: v for k, v in plain.items() if k != "usage"}
    for rationale in plain["rationales"]:
        pieces = [
            e["text"] for _, e in events[:-1] if (e["order"], e["vote"]) == (rationale["order"], rationale["vote"])
        ]
        assert "".join(map(str, pieces)) == rationale["text"]


async def test_line_separators_do_not_break_events(api: Api) -> None:
    text = "<think>a\u2028b\u0085c\rd\n\ne</think>\n<answer>\nA\n</answer>"
    api.engine.options = options(script=lambda _: text)
    events = events_of((await api.post("/rationale", PAIR | {"stream": True})).text)
    pieces = [str(event["text"]) for name, event in events if name == "text" and event["order"] == "ab"]
    assert "".join(pieces) == text


async def test_what_fails_before_the_first_word_has_its_status(api: Api) -> None:
    reply = await api.post("/rationale", PAIR | {"stream": True, "response_a": "x" * 40_000})
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "token_limit"


async def test_what_fails_later_is_an_event(api: Api) -> None:
    api.engine.options = options(script=lambda _: "<think>No answer.</think>")
    reply = await api.post("/rationale", PAIR | {"stream": True})
    name, error = events_of(reply.text)[-1]
    assert (reply.status_code, name, error["code"]) == (200, "error", "invalid_verdict")
    assert error["request_id"] == reply.headers["x-request-id"]


async def test_an_unexpected_error_in_a_stream_is_an_event_without_details(api: Api) -> None:
    def broken(request: EngineRequest) -> list[float]:
        raise RuntimeError("a secret")

    api.engine.options = options(label_logits=broken)
    reply = await api.post("/rationale", PAIR | {"stream": True})
    name, error = events_of(reply.text)[-1]
    assert (name, error["code"]) == ("error", "internal")
    assert "secret" not in reply.text
