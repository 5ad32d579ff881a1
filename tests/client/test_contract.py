"""The sync and the async client do the same: one script of what a server does, run on both."""

from __future__ import annotations

import inspect
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from gram_client import (
    AsyncClient,
    Client,
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    EngineUnusable,
    FailedJudgment,
    Group,
    InvalidRequest,
    MalformedReply,
    Member,
    Normalize,
    NotFound,
    Overloaded,
    Pair,
    Rationale,
    Referenced,
    Retries,
    ScoringError,
    ServerFault,
    Single,
    Text,
    Unauthorized,
)
from tests.support.both_clients import KINDS, Kind, ask
from tests.support.scripted_server import USAGE, VERDICT, VERSION, HangUp, Say, refusal, scripted

pytestmark = pytest.mark.parametrize("kind", KINDS)
PAIR = ("p", "a", "b")
ROW = {"id": None, "group": None, "index": None, "status": "ok", "score": 0.5, "reward": 0.5, "flags": []}
SCORES: dict[str, Any] = {"results": [ROW], "queue": None, "usage": USAGE, "judge_version": VERSION}
SCORE = ("score_references", [Referenced("p", "a", "b")])


def _public(client: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(method) for name, method in vars(client).items() if not name.startswith("_")}


def test_both_have_the_same_methods_and_arguments(kind: Kind) -> None:
    """Of the kind under test, against the other; a stream is an iterator of either sort."""
    mine, other = (Client, AsyncClient) if kind == "sync" else (AsyncClient, Client)
    methods = _public(mine)
    assert set(methods) == set(_public(other))
    for name, signature in _public(other).items():
        assert str(methods[name]).replace("Async", "") == str(signature).replace("Async", "")
    assert inspect.signature(mine.__init__) == inspect.signature(other.__init__)


# --- what is tried again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        Say(503, refusal("overloaded", retryable=True), {"Retry-After": "0"}),
        Say(503, b"<html>gateway</html>"),
        Say(504, refusal("deadline_exceeded", retryable=True)),
        HangUp(),
        Say(cut=10),
        Say(cut=0),
    ],
    ids=["503", "503 of a proxy", "504", "hung up", "cut", "headers only"],
)
def test_trouble_that_passes_is_outlived_under_one_key(kind: Kind, trouble: Say | HangUp) -> None:
    with scripted(trouble, trouble, Say(body=SCORES)) as server:
        assert ask(kind, server.url, *SCORE).rewards == [0.5]
    assert len(server.asked) == 3
    assert len({one.headers["idempotency-key"] for one in server.asked}) == 1
    assert len({one.body for one in server.asked}) == 1
    left = [int(one.headers["x-deadline-ms"]) for one in server.asked]
    assert left == sorted(left, reverse=True)
    assert left[0] <= 10_000


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "invalid_json", InvalidRequest),
        (401, "unauthenticated", Unauthorized),
        (403, "forbidden", Unauthorized),
        (404, "unknown_judge", NotFound),
        (409, "conflict", Conflict),
        (413, "body_too_large", InvalidRequest),
        (422, "token_limit", InvalidRequest),
        (500, "internal", ServerFault),
        (502, "invalid_verdict", EngineUnusable),
        (503, "overloaded", Overloaded),
    ],
)
def test_what_is_settled_is_raised_at_once(kind: Kind, status: int, code: str, error: type[ScoringError]) -> None:
    with scripted(Say(status, refusal(code, tokens=7))) as server, pytest.raises(error) as caught:
        ask(kind, server.url, "compare", *PAIR)
    assert len(server.asked) == 1
    assert type(caught.value) is error
    assert (caught.value.code, caught.value.status, caught.value.request_id) == (code, status, "r-1")
    assert caught.value.details == {"tokens": 7}


def test_tries_end(kind: Kind) -> None:
    with scripted(Say(503, refusal("overloaded", retryable=True))) as server, pytest.raises(Overloaded) as caught:
        ask(kind, server.url, "compare", *PAIR)
    assert caught.value.tries == len(server.asked) == 4


def test_a_refused_connection_is_tried_again_and_told(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConnectionLost, match="is it running") as caught:
        ask(kind, url, "compare", *PAIR)
    assert caught.value.tries == 4
    assert not caught.value.maybe_done


@pytest.mark.parametrize(("method", "arguments"), [("delete_queue", ("q",)), ("import_queue", ("q", b"{}"))])
def test_what_must_not_be_done_twice_is_not_repeated(kind: Kind, method: str, arguments: tuple[Any, ...]) -> None:
    with scripted(HangUp()) as server, pytest.raises(ConnectionLost) as caught:
        ask(kind, server.url, method, *arguments)
    assert len(server.asked) == 1
    assert caught.value.maybe_done


# --- the deadline --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [Say(after_s=30), Say(stall=0), Say(stall=20), Say(every_s=0.03)],
    ids=["silent", "headers only", "half a body", "byte by byte"],
)
@pytest.mark.parametrize("method", ["compare", "stream_rationale"])
def test_nothing_outlives_the_deadline(kind: Kind, trouble: Say, method: str) -> None:
    with scripted(trouble) as server:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            ask(kind, server.url, method, *PAIR, timeout_s=0.6)
        assert time.monotonic() - started < 0.6 * 2 + 5.0  # the second wait of a trickle, and a busy machine
        assert len(server.asked) <= 1  # none where that machine took all the time to connect


def test_waits_that_would_pass_the_deadline_are_not_begun(kind: Kind) -> None:
    with scripted(Say(503, refusal("overloaded", retryable=True), {"Retry-After": "30"})) as server:
        started = time.monotonic()
        with pytest.raises(Overloaded):
            ask(kind, server.url, "compare", *PAIR, timeout_s=5)
        assert time.monotonic() - started < 4
        assert len(server.asked) == 1


# --- chunks --------------------------------------------------------------------------------------------------------


def _answers(server: Any) -> list[str]:
    """The `a` responses of every request, in the order of the pairs."""
    return [item["response_a"] for one in server.asked for item in one.json["items"]]


def test_chunks_keep_the_order_whichever_comes_first(kind: Kind) -> None:
    """Every chunk is answered with the margin of its own request's size, the first one last."""
    sizes = (4, 4, 2)
    replies = [
        Say(body={"results": [VERDICT | {"margin": float(size)}] * size, "usage": USAGE, "judge_version": VERSION})
        for size in sizes
    ]
    slow = Say(body=replies[0].body, after_s=0.3)
    with scripted(slow, *replies[1:]) as server:
        pairs = [Pair("p", f"a{i}", "b") for i in range(10)]
        verdicts = ask(kind, server.url, "compare_many", pairs, client={"max_chunk": 4, "concurrency": 1})
    assert [verdict.margin for verdict in verdicts] == [4.0] * 8 + [2.0] * 2
    assert _answers(server) == [f"a{i}" for i in range(10)]


def test_a_chunk_that_fails_fails_the_call(kind: Kind) -> None:
    with scripted(Say(500, refusal("internal"))) as server, pytest.raises(ServerFault):
        ask(kind, server.url, "compare_many", [PAIR] * 40, client={"max_chunk": 4})
    assert len(server.asked) <= 10


def test_chunks_of_one_call_have_keys_of_their_own(kind: Kind) -> None:
    with scripted(Say(body=SCORES | {"results": [ROW] * 2})) as server:
        items = [Referenced("p", "a", "b")] * 4
        scores = ask(kind, server.url, "score_references", items, idempotency_key="step-1", client={"max_chunk": 2})
    assert len(scores.rows) == 4
    assert scores.usage.comparisons == 2
    assert sorted(one.headers["idempotency-key"] for one in server.asked) == ["step-1/0", "step-1/1"]


@pytest.mark.parametrize(
    ("method", "items"),
    [
        ("score_references", [Referenced("p", "a", "b")] * 600),
        ("score_groups", [Group("p", ["a", "b"])] * 600),
        ("score_single", [Single("p", "a")] * 600),
        ("score_cohort", [Member("p", "a", "g", 2, 0)] * 600),
    ],
)
def test_a_commit_is_never_split(kind: Kind, method: str, items: list[Any]) -> None:
    rows = [ROW | {"group": i // 2, "index": i % 2} for i in range(1200)]
    rows = rows if method == "score_groups" else [ROW] * 600
    with scripted(Say(body=SCORES | {"results": rows})) as server:
        ask(kind, server.url, method, items, normalize=Normalize("q", scale=10.0))
        assert len(server.asked) == 1
        assert server.asked[0].json["normalize"]["scale"] == 10.0
        with pytest.raises(InvalidRequest, match="fewer"):
            ask(kind, server.url, method, items * 7, normalize=Normalize("q"))
        assert len(server.asked) == 1


@pytest.mark.parametrize("method", ["compare_many", "score_references", "score_groups", "score_single", "score_cohort"])
def test_nothing_is_asked_about_nothing(kind: Kind, method: str) -> None:
    with scripted(HangUp()) as server:
        result = ask(kind, server.url, method, [])
    assert not server.asked
    assert not (result if isinstance(result, list) else result.rows)


# --- replies -------------------------------------------------------------------------------------------------------

BROKEN: list[tuple[str, Callable[[], Any]]] = [
    ("not JSON", lambda: b"oops"),
    ("a list", list),
    ("no p_first", lambda: VERDICT | {"p_first": None}),
    ("a text for a number", lambda: VERDICT | {"margin": "1.0"}),
    ("NaN", lambda: json.dumps(VERDICT | {"p_first": float("nan")}).encode()),
    ("infinity", lambda: json.dumps(VERDICT | {"margin": float("inf")}).encode()),
    ("no probability", lambda: VERDICT | {"p_first": 1.5}),
    ("an unknown status", lambda: VERDICT | {"status": "maybe"}),
    ("failed without an error", lambda: VERDICT | {"status": "failed"}),
]


@pytest.mark.parametrize("body", [body for _, body in BROKEN], ids=[name for name, _ in BROKEN])
def test_a_reply_that_breaks_the_contract_is_no_verdict(kind: Kind, body: Callable[[], Any]) -> None:
    with scripted(Say(body=body())) as server, pytest.raises(MalformedReply):
        ask(kind, server.url, "compare", *PAIR)
    assert len(server.asked) == 1


@pytest.mark.parametrize("rows", [[], [ROW, ROW], [ROW | {"score": None}], [ROW | {"reward": None}]])
def test_scores_that_do_not_fit_the_request_are_refused(kind: Kind, rows: list[Any]) -> None:
    with scripted(Say(body=SCORES | {"results": rows})) as server, pytest.raises(MalformedReply):
        ask(kind, server.url, *SCORE)


def test_fields_of_a_newer_service_are_ignored(kind: Kind) -> None:
    with scripted(Say(body=VERDICT | {"mood": "good", "usage": USAGE | {"joules": 3}})) as server:
        assert ask(kind, server.url, "compare", *PAIR).p_first == 0.75


def test_a_failed_item_has_no_numbers_and_spoils_nothing(kind: Kind) -> None:
    error = {"code": "invalid_verdict", "message": "none", "retryable": True}
    failed = VERDICT | {"status": "failed", "error": error, "p_first": None, "margin": None, "preferred": None}
    body = {"results": [VERDICT, failed], "usage": USAGE, "judge_version": VERSION}
    with scripted(Say(body=body)) as server:
        good, bad = ask(kind, server.url, "compare_many", [PAIR, PAIR])
    assert good.ok
    assert not bad.ok
    assert (bad.p_first, bad.margin, bad.preferred) == (None, None, None)
    assert isinstance(bad.error.raised(), FailedJudgment)


# --- streams -------------------------------------------------------------------------------------------------------

RATIONALE = VERDICT | {"rationales": []}
EVENTS = [
    ("text", {"order": "ab", "vote": 0, "text": "Because\u2028"}),
    ("mood", {"of": "a newer service"}),
    ("verdict", RATIONALE),
]


def _stream(*events: tuple[str, Any]) -> bytes:
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()


def test_streams_are_texts_and_then_the_verdict(kind: Kind) -> None:
    busy = Say(503, refusal("overloaded", retryable=True))
    with scripted(busy, HangUp(), Say(body=_stream(*EVENTS))) as server:
        events = ask(kind, server.url, "stream_rationale", *PAIR)
    assert events[0] == Text("ab", 0, "Because\u2028")
    assert isinstance(events[1], Rationale)
    assert len(events) == 2
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (_stream(*EVENTS[:1]), ConnectionLost),
        (_stream(EVENTS[0], ("error", refusal("invalid_verdict", retryable=True)["error"])), FailedJudgment),
        (_stream(("error", refusal("draining", retryable=True)["error"])), Overloaded),
        (b"event: text\ndata: oops\n\n", MalformedReply),
        (_stream(("verdict", VERDICT)), MalformedReply),
    ],
    ids=["no verdict", "failed", "draining", "not JSON", "no rationales"],
)
def test_streams_that_end_badly_raise_and_are_not_begun_again(
    kind: Kind, body: bytes, error: type[ScoringError]
) -> None:
    with scripted(Say(body=body)) as server, pytest.raises(error):
        ask(kind, server.url, "stream_rationale", *PAIR)
    assert len(server.asked) == 1


def test_a_stream_that_is_refused_raises_what_the_service_said(kind: Kind) -> None:
    with scripted(Say(404, refusal("unknown_judge"))) as server, pytest.raises(NotFound):
        ask(kind, server.url, "stream_rationale", *PAIR)


# --- around it -----------------------------------------------------------------------------------------------------


def test_keys_judges_and_paths_go_along(kind: Kind) -> None:
    with scripted(Say()) as server:
        ask(kind, f"{server.url}/behind/a/proxy/", "compare", *PAIR, client={"api_key": "secret", "judge": "mine"})
        ask(kind, server.url, "compare", *PAIR, judge="other", client={"judge": "mine"})
    first, second = server.asked
    assert first.path == "/behind/a/proxy/compare"
    assert first.headers["authorization"] == "Bearer secret"
    assert [one.json["judge"] for one in server.asked] == ["mine", "other"]
    assert "authorization" not in second.headers


@pytest.mark.parametrize(("method", "path"), [("queue", "/queues/a%2Fb%3F"), ("delete_queue", "/queues/a%2Fb%3F")])
def test_names_in_paths_are_quoted(kind: Kind, method: str, path: str) -> None:
    with scripted(Say(404, refusal("not_found"))) as server, pytest.raises(NotFound):
        ask(kind, server.url, method, "a/b?")
    assert server.asked[0].path == path


def test_readiness_is_an_answer_not_an_error(kind: Kind) -> None:
    with scripted(Say(200, {"status": "ok"}), Say(503, refusal("draining")), HangUp()) as server:
        assert [ask(kind, server.url, "ready") for _ in range(3)] == [True, False, False]
        assert ask(kind, server.url, "alive") is False
    assert "x-deadline-ms" not in server.asked[0].headers
    assert [one.path for one in server.asked] == ["/readyz"] * 3 + ["/livez"]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"max_chunk": 0},
        {"concurrency": 0},
    ],
)
def test_impossible_clients_are_refused(kind: Kind, options: dict[str, Any]) -> None:
    made = Client if kind == "sync" else AsyncClient
    with pytest.raises(ValueError, match="positive"):
        made("http://127.0.0.1:1", **options)
    with pytest.raises(ValueError, match="http"):
        made("127.0.0.1:1")


def test_what_cannot_be_json_is_refused_before_it_is_sent(kind: Kind) -> None:
    with scripted(Say()) as server:
        for pair in (("p", b"bytes", "b"), ([{"role": "user"}], "a", "b"), (7, "a", "b")):
            with pytest.raises(InvalidRequest):
                ask(kind, server.url, "compare", *pair)
        with pytest.raises(InvalidRequest):
            ask(kind, server.url, "compare", *PAIR, client={"api_key": "line\nbreak", "retries": Retries(attempts=1)})
    assert not server.asked
