"""Chunks: they cover the list in order, keep their bounds, and let one bad item spoil no other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_client.chunks import Answered, ask_batch, split
from gram_client.errors import InvalidRequest, error_of
from gram_client.exchange import Reply, Steps
from gram_client.request import Request, encoded
from tests.support.properties import bar

items_and_weights = st.lists(st.tuples(st.text(max_size=12), st.integers(1, 9)), max_size=40)


@bar(5_000)
@given(items_and_weights, st.integers(1, 30), st.integers(20, 400))
def test_chunks_cover_the_list_in_order_and_keep_their_bounds(
    pairs: list[tuple[str, int]], max_weight: int, max_bytes: int
) -> None:
    items = [{"text": text} for text, _ in pairs]
    weights = [weight for _, weight in pairs]
    chunks = split(items, weights, max_weight, max_bytes)
    assert [i for chunk in chunks for i in chunk] == list(range(len(items)))
    for chunk in chunks:
        assert len(chunk) == 1 or sum(weights[i] for i in chunk) <= max_weight
        assert len(chunk) == 1 or len(encoded([items[i] for i in chunk])) <= max_bytes + 2
    for one, two in pairwise(chunks):  # none is cut shorter than it has to be
        more = [*one, two.start]
        size = sum(len(encoded(items[i])) + 1 for i in more)
        assert sum(weights[i] for i in more) > max_weight or size > max_bytes


def _service(bad: set[int], most: int = 10) -> Any:
    """Refuses requests that hold bad items as the service does, naming at most `most`; else doubles the numbers."""
    asked: list[list[int]] = []

    def ask(request: Request) -> Steps[Reply]:
        assert request.json is not None
        numbers = [item["n"] for item in request.json["items"]]
        asked.append(numbers)
        faults = [
            {"field": f"body.items[{place}].response", "code": "x", "message": "Too short"}
            for place, n in enumerate(numbers)
            if n in bad
        ]
        if faults:
            body = {
                "error": {
                    "code": "invalid_input",
                    "message": "m",
                    "retryable": False,
                    "details": {"errors": faults[:most]},
                }
            }
            raise error_of(422, body)
        return Reply(200, {}, json.dumps([2 * n for n in numbers]).encode())
        yield

    return ask, asked


def _run(steps: Steps[Answered]) -> Answered:
    try:
        next(steps)
    except StopIteration as done:
        found: Answered = done.value
        return found
    raise AssertionError("nothing here waits")


def _request(items: Sequence[Any]) -> Request:
    return Request("POST", "/score", {"items": list(items)})


@bar(3_000)
@given(st.integers(0, 30), st.sets(st.integers(0, 29)))
def test_bad_items_are_left_out_and_the_rest_is_answered_in_order(count: int, bad: set[int]) -> None:
    ask, asked = _service(bad)
    answer = _run(ask_batch(ask, [{"n": n} for n in range(count)], _request))
    assert set(answer.refused) == {n for n in bad if n < count}
    assert list(answer.kept) == [n for n in range(count) if n not in bad]
    assert answer.data == ([2 * n for n in answer.kept] if answer.kept else None)
    assert len(asked) <= 1 + len(bad)
    assert all(why.code == "invalid_input" and why.message == "response: Too short." for why in answer.refused.values())


@pytest.mark.parametrize("field", ["body.votes", "body", "", "body.items", "body.items[7].response"])
def test_a_refusal_that_names_no_item_of_the_request_is_everyones(field: str) -> None:
    def ask(request: Request) -> Steps[Reply]:
        named = {"field": "body.items[0].response", "message": "bad"}
        raise error_of(422, {"error": {"details": {"errors": [named, {"field": field, "message": "bad"}]}}})
        yield

    with pytest.raises(InvalidRequest):
        _run(ask_batch(ask, [{"n": 0}, {"n": 1}], _request))
