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


async def test_what_has_no_verdict_can_be_read_in_the_error(api: Api) -> None:
    """Whole and streamed; /compare, which shows no texts, shows none here."""
    api.engine.options = options(script=lambda _: "<think>\nFeedback:\nBoth are fine.\n</think>")
    plain = (await api.post("/rationale", PAIR)).json()["error"]["details"]["rationales"]
    *_, (name, error) = events_of((await api.post("/rationale", PAIR | {"stream": True})).text)
    assert (name, error["details"]) == ("error", {"rationales": plain})
    assert [(r["order"], r["verdict"], r["probability"]) for r in plain] == [
        ("ab", "invalid", None),
        ("ba", "invalid", None),
    ]
    assert plain[0]["sections"] == {"feedback": "Both are fine."}
    assert plain[0]["finish_reason"] == "stop"
    compared = (await api.post("/compare", PAIR | {"judge": "gram_r2"})).json()["error"]
    assert (compared["code"], "details" in compared) == ("invalid_verdict", False)


async def test_a_budget_cuts_or_makes_the_judge_answer(api: Api) -> None:
    body = PAIR | {"max_rationale_tokens": 30}
    cut = await api.post("/rationale", body)
    assert (cut.status_code, cut.json()["error"]["code"]) == (502, "invalid_verdict")
    assert {r["finish_reason"] for r in cut.json()["error"]["details"]["rationales"]} == {"length"}
    for stream in (False, True):
        reply = await api.post("/rationale", body | {"on_budget": "answer", "stream": stream})
        verdict = events_of(reply.text)[-1][1] if stream else reply.json()
        assert [(r["tokens"], r["forced"], r["finish_reason"]) for r in verdict["rationales"]] == [
            (30, True, "length"),
            (30, True, "length"),
        ]
        assert verdict["flags"] == [{"code": "forced_verdict", "count": 2, "where": "rationale"}]
        assert 0 < verdict["p_first"] < 1
    whole = (await api.post("/rationale", PAIR)).json()
    assert [(r["forced"], r["tokens"]) for r in whole["rationales"]] == [
        (False, len(r["text"])) for r in whole["rationales"]
    ]


async def test_a_budget_beyond_the_judges_own_is_refused_with_the_limit(api: Api) -> None:
    limit = next(j for j in (await api.client.get("/models")).json()["judges"] if j["name"] == "gram_r2")["limits"]
    assert limit["on_budget"] == "invalid"
    for stream in (False, True):
        body = PAIR | {"max_rationale_tokens": limit["max_rationale_tokens"] + 1, "stream": stream}
        reply = await api.post("/rationale", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_input")
        assert reply.json()["error"]["details"] == {"limit": limit["max_rationale_tokens"]}


async def test_a_rationale_that_goes_round_is_stopped(api: Api) -> None:
    api.engine.options = options(script=lambda _: "<think>\n" + "Again and again. " * 100)
    error = (await api.post("/rationale", PAIR)).json()["error"]
    assert error["code"] == "invalid_verdict"
    assert {r["finish_reason"] for r in error["details"]["rationales"]} == {"repetition"}
    assert all(r["tokens"] < 300 for r in error["details"]["rationales"])


async def test_written_judgments_are_counted_by_how_they_ended(api: Api) -> None:
    registry = api.app.state.gate.metrics.registry

    def counted() -> dict[str, float]:
        names = ("verdict", "forced", "length", "no_verdict", "repetition")
        found = {
            n: registry.get_sample_value("gram_rationales_total", {"judge": "gram_r2", "outcome": n}) for n in names
        }
        skipped = registry.get_sample_value("gram_votes_skipped_total", {"judge": "gram_r2"})
        return {name: value or 0.0 for name, value in {**found, "skipped": skipped}.items()}

    before = counted()
    await api.post("/rationale", PAIR)
    await api.post("/rationale", PAIR | {"max_rationale_tokens": 30})
    await api.post("/rationale", PAIR | {"max_rationale_tokens": 30, "on_budget": "answer", "stream": True})
    await api.post("/rationale", PAIR | {"max_rationale_tokens": 30, "stream": True})
    await api.post("/compare", PAIR | {"judge": "gram_r2"})
    api.engine.options = options(
        script=lambda _: "<think>x</think>\n<answer>\nA\n</answer>", label_logits=lambda _: (9, -9)
    )
    await api.post("/rationale", PAIR | {"votes": 4, "stop_when_decided": True})
    after = counted()
    more = {name: after[name] - before[name] for name in after}
    assert {name: more[name] for name in ("forced", "length", "no_verdict")} == {
        "forced": 2,
        "length": 4,
        "no_verdict": 0,
    }
    assert more["verdict"] + more["skipped"] == 4 + 8


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
