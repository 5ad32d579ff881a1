"""The retry policy, and the exchange that obeys it: on a clock of their own, without a network."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_client.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ScoringError,
    error_of,
)
from gram_client.exchange import Deadline, Pause, Reply, Send, exchange
from gram_client.request import Request
from gram_client.retries import Retries, is_worth_another_try
from tests.support.properties import bar
from tests.support.scripted_server import refusal

POST = Request("POST", "/score", {"items": []}, key="k")
ONCE = Request("DELETE", "/queues/q", repeatable=False)
RETRYABLE = (503, 504)
STATUSES = (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 502, 503, 504)

policies = st.builds(
    lambda attempts, first, more: Retries(attempts, first, first + more),
    st.integers(1, 12),
    st.floats(0, 5),
    st.floats(0, 30),
)
errors = st.one_of(
    st.builds(lambda status, after: error_of(status, None, after), st.sampled_from(STATUSES), st.floats(0, 40)),
    st.just(ConnectionLost("broke")),
    st.builds(lambda: ConnectionLost.before_sending("refused")),
    st.just(DeadlineExceeded("here")),
)


class Time:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@bar(20_000)
@given(policies, errors, st.integers(1, 20), st.floats(0, 100), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_wait_fits_the_deadline_the_tries_and_the_error(
    policy: Retries, error: ScoringError, tries: int, left_s: float, luck: float, repeatable: bool
) -> None:
    wait = policy.wait_s(error, tries, left_s, luck, repeatable)
    if wait is None:
        return
    assert 0 <= wait < left_s
    assert tries < policy.attempts
    assert is_worth_another_try(error, repeatable)
    after = error.retry_after_s or 0.0
    assert after <= wait <= after + policy.max_wait_s


@pytest.mark.parametrize("status", STATUSES)
def test_only_what_may_be_answered_differently_is_tried_again(status: int) -> None:
    again = status in (*RETRYABLE, 429)
    assert is_worth_another_try(error_of(status, None)) is again
    assert not is_worth_another_try(error_of(status, refusal("anything", retryable=False)))


def test_what_must_not_be_done_twice_is_repeated_only_where_it_was_not_begun() -> None:
    assert is_worth_another_try(ConnectionLost.before_sending("refused"), repeatable=False)
    assert is_worth_another_try(error_of(503, refusal("overloaded", retryable=True)), repeatable=False)
    for error in (ConnectionLost("broke"), error_of(503, refusal("draining", retryable=True)), error_of(504, None)):
        assert not is_worth_another_try(error, repeatable=False)
        assert is_worth_another_try(error)


def test_the_clients_own_deadline_is_final() -> None:
    assert not is_worth_another_try(DeadlineExceeded("here"))


answers = st.lists(
    st.one_of(
        st.builds(
            lambda status, after: Reply(status, {"retry-after": str(after)}),
            st.sampled_from(STATUSES),
            st.integers(0, 20),
        ),
        st.just("refused"),
        st.just("broke"),
        st.just(Reply(200, {}, b"{}")),
    ),
    min_size=1,
    max_size=15,
)


@bar(10_000)
@given(policies, answers, st.floats(0.1, 60), st.floats(0, 10), st.floats(0, 1, exclude_max=True), st.booleans())
def test_an_exchange_never_outlives_its_deadline_nor_repeats_what_is_settled(
    policy: Retries, script: list[Any], seconds: float, each_s: float, luck: float, keyed: bool
) -> None:
    """Whatever comes back, and however long it takes: every send is begun in time, with one key and less and less
    time for the service, and nothing follows an answer that settles the matter."""
    time = Time()
    request = POST if keyed else ONCE
    steps = exchange(request, policy, Deadline(seconds, time), lambda: luck)
    sent: list[Send] = []
    answer: Any = None
    ended: Any = None
    while ended is None:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            ended = done.value
        except ScoringError as error:
            ended = error
        else:
            if isinstance(step, Pause):
                time.now += step.seconds
                answer = None
                continue
            assert time.now < seconds
            sent.append(step)
            time.now += min(each_s, step.deadline.left_s)  # drivers end a send at the deadline
            answer = script[min(len(sent), len(script)) - 1]
            if isinstance(answer, str):
                answer = ConnectionLost.before_sending("x") if answer == "refused" else ConnectionLost("x")
    gone = [script[min(i + 1, len(script)) - 1] for i in range(len(sent) - 1)]
    assert not any(isinstance(one, Reply) and one.status not in (429, 503, 504) for one in gone)
    assert keyed or "broke" not in gone
    assert isinstance(ended, ScoringError) or ended.status == 200
    assert len(sent) <= policy.attempts
    assert time.now <= seconds + 1e-9
    assert {one.headers.get("Idempotency-Key") for one in sent} <= {"k" if keyed else None}
    told = [int(one.headers["X-Deadline-Ms"]) for one in sent]
    assert all(0 < ms <= 1000 * seconds + 1 for ms in told)
    assert told == sorted(told, reverse=True)


def test_retry_after_is_waited_for_and_jitter_added() -> None:
    policy = Retries(first_wait_s=1.0)
    error = Overloaded("full", retry_after_s=7.0)
    assert policy.wait_s(error, 1, 60, luck=0.0) == 7.0
    assert policy.wait_s(error, 1, 60, luck=0.5) == 7.5
    assert policy.wait_s(error, 1, 7.0, luck=0.0) is None


def test_the_error_that_ended_it_says_how_often_it_was_tried() -> None:
    steps = exchange(POST, Retries(attempts=2, first_wait_s=0), Deadline(10), lambda: 0.0)
    next(steps)
    assert isinstance(steps.send(Reply(503, {}, b"busy")), Pause)
    next(steps)
    with pytest.raises(Overloaded) as caught:
        steps.send(Reply(503, {}, b"busy"))
    assert caught.value.tries == 2
    assert "2 tries" in str(caught.value)


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"first_wait_s": -1}, {"first_wait_s": 9, "max_wait_s": 8}])
def test_impossible_policies_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Retries need"):
        Retries(**settings)


@pytest.mark.parametrize("status", STATUSES)
def test_errors_travel_between_processes(status: int) -> None:
    error = error_of(status, refusal("code", retryable=True, tokens=7), 3.0)
    error.tries = 4
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_a_proxys_page_is_an_error_too() -> None:
    error = Reply(422, {}, b"<html>").error()
    assert isinstance(error, InvalidRequest)
    assert error.code == ""
