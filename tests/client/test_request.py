"""Whatever is built is what the service's own schemas take, or is refused before it is sent."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gram_client import Group, InvalidRequest, Member, Normalize, Pair, Reference, Referenced, Single, calls
from gram_client import items as wire
from gram_client import request as requests
from gram_client.exchange import Reply, Steps
from gram_client.request import Request
from service.schemas.requests import CompareRequest, RankRequest, RationaleRequest, ReferencesRequest, ScoreRequest
from tests.support.properties import bar

SCHEMAS: dict[str, TypeAdapter[Any]] = {
    "/compare": TypeAdapter(CompareRequest),
    "/rank": TypeAdapter(RankRequest),
    "/rationale": TypeAdapter(RationaleRequest),
    "/score": TypeAdapter(ScoreRequest),
    "/references": TypeAdapter(ReferencesRequest),
}
words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20).map(lambda text: "x" + text)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": words},
    optional={"name": words, "tool_calls": st.just([])},
)
prompts = words | st.lists(messages, min_size=1, max_size=4)
ids = st.none() | words
names = st.none() | words
keys = st.none() | st.from_regex(r"[!-~]{1,40}", fullmatch=True)
votes = st.integers(1, 64)
normalize = st.none() | st.builds(
    Normalize,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,20}", fullmatch=True),
    st.integers(1, 100_000),
    st.floats(1e-6, 1e6),
    st.booleans(),
    st.integers(1, 100_000),
    st.floats(1e-6, 1e6),
)
pairs = st.builds(Pair, prompts, words, words, ids) | st.tuples(prompts, words, words)
references = st.builds(Referenced, prompts, words, words, ids)
singles = st.builds(Single, prompts, words, ids)
groups = st.builds(Group, prompts, st.lists(words, min_size=2, max_size=64), ids)
sizes = st.integers(2, 64)
members = sizes.flatmap(
    lambda size: st.builds(
        Member,
        *(prompts, words, words, st.just(size), st.integers(0, size - 1)),
        *(st.integers(0, 2**31 - 1), st.none() | st.integers(1, 600_000), ids),
    )
)


def _sent(call: calls.Call[Any]) -> list[Request]:
    """The first request of every part; nothing is answered."""
    sent: list[Request] = []

    def ask(request: Request) -> Steps[Reply]:
        sent.append(request)
        raise InterruptedError
        yield

    for part in call.parts:
        with pytest.raises(InterruptedError):
            next(part(ask))
    return sent


def _check(*sent: Request) -> None:
    for request in sent:
        content = request.content()
        assert content is not None
        SCHEMAS[request.path].validate_python(json.loads(content))  # strict and closed, as the route is
        assert request.key is None or re.fullmatch(r"[\x21-\x7e]{1,255}", request.key)


@bar(3_000)
@given(prompts, words, words, votes, names)
def test_compare(prompt: Any, a: str, b: str, count: int, judge: str | None) -> None:
    _check(requests.compare(prompt, a, b, votes=count, judge=judge))


@bar(3_000)
@given(st.lists(pairs, min_size=1, max_size=6), votes, names, st.integers(1, 200))
def test_compare_many(some: list[Any], count: int, judge: str | None, max_chunk: int) -> None:
    sent = _sent(calls.compare_many(some, votes=count, judge=judge, max_chunk=max_chunk))
    _check(*sent)
    assert sum(len(request.json["items"]) for request in sent if request.json) == len(some)


@bar(2_000)
@given(
    prompts,
    st.lists(words, min_size=1, max_size=64),
    st.sampled_from(["auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive"]),
    st.sampled_from(["order", "best", "top_k"]),
    st.none() | st.integers(1, 64),
    st.floats(0.51, 0.99),
    st.none() | st.integers(1, 10_000),
)
def test_rank(prompt: Any, some: list[str], method: Any, goal: Any, top: int | None, sure: float, most: Any) -> None:
    more = {"method": method, "goal": goal, "top_k": top, "confidence": sure, "max_comparisons": most}
    _check(requests.rank(prompt, some, **more, judge=None))


@bar(2_000)
@given(prompts, words, words, votes, st.booleans(), st.booleans(), st.none() | st.integers(1, 9999))
def test_rationale(prompt: Any, a: str, b: str, count: int, stop: bool, stream: bool, budget: int | None) -> None:
    for on_budget in (None, "invalid", "answer"):
        more = {"max_rationale_tokens": budget, "on_budget": on_budget, "judge": None, "stream": stream}
        _check(requests.rationale(prompt, a, b, votes=count, stop_when_decided=stop, **more))


@bar(2_000)
@given(st.data(), normalize, names, keys, st.integers(1, 40))
def test_score(data: st.DataObject, queue: Normalize | None, judge: str | None, key: str | None, chunk: int) -> None:
    more: dict[str, Any] = {"normalize": queue, "judge": judge, "key": key}
    some = data.draw(st.lists(references, min_size=1, max_size=5))
    _check(*_sent(calls.score_references(some, **more, max_chunk=chunk)))
    alone = data.draw(st.lists(singles, min_size=1, max_size=5))
    _check(*_sent(calls.score_single(alone, **more, max_chunk=chunk)))
    _check(*_sent(calls.score_cohort(data.draw(st.lists(members, min_size=1, max_size=5)), **more)))


@bar(1_000)
@given(
    st.lists(groups, min_size=1, max_size=4), st.sampled_from([None, "all_pairs", "pivot", "swiss"]), normalize, keys
)
def test_score_groups(some: list[Group], method: Any, queue: Normalize | None, key: str | None) -> None:
    _check(*_sent(calls.score_groups(some, method=method, normalize=queue, judge=None, key=key, max_chunk=50)))


@bar(1_000)
@given(st.lists(st.builds(Reference, prompts, words) | st.tuples(prompts, words), min_size=1, max_size=5))
def test_put_references(some: list[Any]) -> None:
    _check(requests.put_references(some))


def test_keys_are_drawn_anew_for_each_call_and_chunk() -> None:
    def keys_of(key: str | None) -> list[str | None]:
        some = [Referenced("p", "a", "b")] * 4
        call = calls.score_references(some, normalize=None, judge=None, key=key, max_chunk=2)
        return [request.key for request in _sent(call)]

    assert len({*keys_of(None), *keys_of(None)}) == 4
    assert keys_of("mine") == ["mine/0", "mine/1"]


@pytest.mark.parametrize("prompt", [7, None, [{"role": "user"}], [{"content": "x"}], ["x"]])
def test_a_prompt_is_a_text_or_messages(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="A prompt is"):
        wire.wire_prompt(prompt)


def test_a_lone_surrogate_can_be_sent_so_that_the_service_can_name_it() -> None:
    assert json.loads(requests.encoded({"text": "\ud800"})) == {"text": "\ud800"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        requests.encoded({"value": value})
