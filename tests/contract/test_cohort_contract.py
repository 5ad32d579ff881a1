"""What `service.stores.cohorts_base` promises, on every store of cohorts."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from service.errors import Conflict, InvalidInput, Overloaded, StoreUnavailable
from service.stores.cohorts_base import CohortLimits, CohortStore, Policy, Snapshot, Terms, digest
from tests.support.cohorts import COHORT_BACKENDS, FOREVER, POLICY, TERMS, CohortBackend, member
from tests.support.properties import bar

T = TypeVar("T")


@dataclass
class Bench:
    """An open store, the loop it lives on, and its time."""

    backend: CohortBackend
    runner: asyncio.Runner
    store: CohortStore
    let_pass: Callable[[float], None]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def key(self) -> str:
        """A cohort nobody has joined."""
        return digest("cohort", next(self.numbers))

    def join(self, key: str, index: int, response: str | None = None, **more: Any) -> Snapshot:
        terms, wait_s = more.get("terms", TERMS), more.get("wait_s", FOREVER)
        return self.run(self.store.join(key, terms, member(index, response), wait_s))

    def full(self) -> str:
        """A cohort whose members have all come."""
        key = self.key()
        for index in range(TERMS.size):
            self.join(key, index)
        return key

    def look(self, key: str) -> Snapshot:
        found = self.run(self.store.look(key))
        assert found is not None
        return found


@pytest.fixture(params=COHORT_BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> CohortBackend:
    chosen: CohortBackend = request.param
    return chosen


def opened(backend: CohortBackend, limits: CohortLimits) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        store, let_pass = backend.make(limits)
        runner.run(store.start())
        yield Bench(backend, runner, store, let_pass)
        runner.run(store.close())


@pytest.fixture
def bench(backend: CohortBackend) -> Iterator[Bench]:
    yield from opened(backend, CohortLimits(keep_s=60))


@pytest.fixture
def small(backend: CohortBackend) -> Iterator[Bench]:
    yield from opened(backend, CohortLimits(max_cohorts=2, max_bytes=10_000, keep_s=60))


# --- members


def test_the_last_member_closes_the_cohort(bench: Bench) -> None:
    key = bench.key()
    assert bench.run(bench.store.look(key)) is None
    assert bench.join(key, 2).present == (2,)
    assert not bench.join(key, 0).closed
    seen = bench.join(key, 1)
    assert (seen.closed, seen.is_ready, seen.present, seen.size) == (True, True, (0, 1, 2), 3)


def test_a_duplicate_changes_nothing_and_conflicts_change_nothing(bench: Bench) -> None:
    key = bench.key()
    bench.join(key, 0)
    assert bench.join(key, 0).present == (0,)
    before = bench.look(key)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("response", {"response": "another"}),
        ("size", {"terms": Terms(4, "prompt", "rules")}),
        ("prompt", {"terms": Terms(3, "other", "rules")}),
        ("rules", {"terms": Terms(3, "prompt", "other")}),
    ]
    for clash, changes in wrong:
        with pytest.raises(Conflict) as refused:
            bench.join(key, 0, **changes)
        assert refused.value.details == {"clash": clash}
    for index in (-1, 3, 64):
        with pytest.raises(InvalidInput):
            bench.join(key, index)
    after = bench.look(key)
    assert (after.version, after.present, after.closed) == (before.version, (0,), False)


@pytest.mark.parametrize("size", [-1, 0, 1, 65])
def test_sizes_that_are_no_group(size: int) -> None:
    with pytest.raises(InvalidInput):
        Terms(size, "prompt")


def test_texts_come_back_as_they_were(bench: Bench) -> None:
    key, texts = bench.key(), ["", "\x00 NUL", "\U0001f600 " * 50]
    for index, text in enumerate(texts):
        bench.join(key, index, text)
    gathered = bench.run(bench.store.claim(key, "me", 5))
    assert gathered is not None
    assert list(gathered.responses.items()) == list(enumerate(texts))


# --- deadlines


def test_the_earliest_deadline_counts(bench: Bench) -> None:
    key = bench.key()
    bench.join(key, 0, wait_s=50)
    assert bench.join(key, 1, wait_s=10).deadline_in_s == pytest.approx(10, abs=1)
    assert bench.join(key, 0, wait_s=90).deadline_in_s == pytest.approx(10, abs=1)


def test_before_the_deadline_nothing_expires(bench: Bench) -> None:
    key = bench.key()
    bench.join(key, 0, wait_s=10)
    before = bench.look(key)
    bench.let_pass(8)
    after = bench.run(bench.store.expire(key, POLICY, b"late"))
    assert after is not None
    assert (after.failed, after.snapshot.version, after.snapshot.round) == (False, before.version, 0)


def test_a_quorum_is_closed_and_refuses_the_rest(bench: Bench) -> None:
    key = bench.key()
    bench.join(key, 0, wait_s=10)
    bench.let_pass(4)
    bench.join(key, 2, wait_s=100)
    bench.let_pass(7)
    after = bench.run(bench.store.expire(key, Policy(quorum=2), b"late"))
    assert after is not None
    assert (after.failed, after.snapshot.closed, after.snapshot.failure) == (False, True, None)
    with pytest.raises(Conflict) as refused:
        bench.join(key, 1)
    assert refused.value.details == {"clash": "closed"}
    gathered = bench.run(bench.store.claim(key, "me", 5))
    assert gathered is not None
    assert (list(gathered.responses), gathered.size) == ([0, 2], 3)
    assert gathered.assembly_s == pytest.approx(11, abs=1)


@pytest.mark.parametrize("policy", [Policy(partial=False), Policy(quorum=3), Policy(quorum=64)])
def test_without_a_quorum_the_round_ends_once_and_the_members_stay(bench: Bench, policy: Policy) -> None:
    key = bench.key()
    for index in (0, 1):
        bench.join(key, index, wait_s=10)
    bench.let_pass(11)
    results = [bench.run(bench.store.expire(key, policy, b"late")) for _ in range(3)]
    assert [result is not None and result.failed for result in results] == [True, False, False]
    seen = bench.look(key)
    assert (seen.round, seen.failure, seen.present, seen.closed) == (1, b"late", (0, 1), False)
    assert seen.deadline_in_s == math.inf
    again = bench.join(key, 1, wait_s=10)
    assert (again.round, again.present) == (1, (0, 1))
    assert again.deadline_in_s == pytest.approx(10, abs=1)
    assert bench.join(key, 2).is_ready


# --- judging


def test_one_judge_at_a_time(bench: Bench) -> None:
    key = bench.key()
    bench.join(key, 0)
    assert bench.run(bench.store.claim(key, "early", 5)) is None
    key = bench.full()
    assert bench.run(bench.store.claim(key, "one", 5)) is not None
    assert bench.run(bench.store.claim(key, "two", 5)) is None
    assert bench.look(key).lease_in_s == pytest.approx(5, abs=1)
    bench.let_pass(4)
    assert bench.run(bench.store.renew(key, "one", 5))
    bench.let_pass(4)
    assert bench.run(bench.store.claim(key, "two", 5)) is None
    bench.let_pass(2)
    assert bench.run(bench.store.claim(key, "two", 5)) is not None
    assert not bench.run(bench.store.renew(key, "one", 5))
    assert not bench.run(bench.store.fail(key, "one", b"x"))
    bench.run(bench.store.release(key, "one"))
    assert bench.run(bench.store.claim(key, "three", 5)) is None


def test_a_released_cohort_is_free_at_once(bench: Bench) -> None:
    key = bench.full()
    bench.run(bench.store.claim(key, "one", 5))
    version = bench.look(key).version
    bench.run(bench.store.release(key, "one"))
    assert bench.look(key).version != version
    assert bench.look(key).lease_in_s <= 0
    assert bench.run(bench.store.claim(key, "two", 5)) is not None


def test_the_first_result_counts(bench: Bench) -> None:
    key = bench.full()
    bench.run(bench.store.claim(key, "one", 5))
    bench.let_pass(6)
    bench.run(bench.store.claim(key, "two", 5))
    assert bench.run(bench.store.finish(key, "one", b"first")) == (b"first", True)
    assert bench.run(bench.store.finish(key, "two", b"second")) == (b"first", False)
    seen = bench.join(key, 1)
    assert (seen.result, seen.is_ready) == (b"first", False)
    with pytest.raises(Conflict):
        bench.join(key, 1, "another")
    assert bench.run(bench.store.claim(key, "three", 5)) is None
    assert not bench.run(bench.store.fail(key, "two", b"x"))


def test_a_failure_ends_the_round_of_those_who_wait(bench: Bench) -> None:
    key = bench.full()
    bench.run(bench.store.claim(key, "one", 5))
    assert bench.run(bench.store.fail(key, "one", b"broken"))
    seen = bench.look(key)
    assert (seen.round, seen.failure, seen.is_ready) == (1, b"broken", True)
    assert bench.join(key, 0).round == 1
    assert bench.run(bench.store.claim(key, "two", 5)) is not None


# --- bounds and waking


def test_the_number_of_cohorts_is_bounded(small: Bench) -> None:
    one, two, three = small.key(), small.key(), small.key()
    small.join(one, 0)
    small.join(two, 0)
    with pytest.raises(Overloaded):
        small.join(three, 0)
    assert small.run(small.store.look(three)) is None
    assert small.join(one, 1).present == (0, 1)


def test_the_bytes_of_cohorts_are_bounded_and_given_back(small: Bench) -> None:
    one, two = small.key(), small.key()
    small.join(one, 0, "x" * 6000)
    with pytest.raises(Overloaded):
        small.join(two, 0, "x" * 6000)
    for index in (1, 2):
        small.join(one, index)
    small.run(small.store.claim(one, "me", 5))
    small.run(small.store.finish(one, "me", b"result"))
    assert small.join(two, 0, "x" * 6000).present == (0,)


def test_cohorts_are_forgotten_after_their_time_and_not_before(small: Bench) -> None:
    done, open_, third = small.key(), small.key(), small.key()
    for index in range(3):
        small.join(done, index)
    small.run(small.store.finish(done, "me", b"result"))
    small.join(open_, 0, wait_s=200)
    small.let_pass(61)
    assert small.join(third, 0).present == (0,), "the judged one made room"
    assert small.run(small.store.look(done)) is None
    assert small.look(open_).present == (0,)
    small.let_pass(200)
    small.join(small.key(), 0)
    assert small.run(small.store.look(open_)) is None


def test_waiting_ends_with_a_change_or_with_time(bench: Bench) -> None:
    async def check() -> None:
        key, store = bench.key(), bench.store
        seen = await store.join(key, TERMS, member(0), FOREVER)
        same = await asyncio.wait_for(store.wait(key, seen.version, 0.01), 5)
        assert same is not None
        assert same.version == seen.version
        waits = [asyncio.create_task(store.wait(key, seen.version, 60)) for _ in range(3)]
        await asyncio.sleep(0.01)
        await store.join(key, TERMS, member(1), FOREVER)
        found = await asyncio.wait_for(asyncio.gather(*waits), 5)
        assert all(one is not None and one.present == (0, 1) for one in found)
        assert (await asyncio.wait_for(store.wait(key, seen.version, 60), 5)) == await store.look(key)
        assert await store.wait(digest("nobody"), 0, 60) is None

    bench.run(check())


def test_after_closing_everything_is_refused(bench: Bench) -> None:
    key = bench.full()

    async def check() -> None:
        wait = asyncio.create_task(bench.store.wait(key, (await bench.store.look(key)).version, 60))  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
        await bench.store.close()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(wait, 5)

    bench.run(check())
    calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: bench.store.look(key),
        lambda: bench.store.join(key, TERMS, member(0), 1),
        lambda: bench.store.claim(key, "t", 1),
        lambda: bench.store.renew(key, "t", 1),
        lambda: bench.store.finish(key, "t", b""),
        lambda: bench.store.expire(key, POLICY, b""),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            bench.run(call())


# --- any order of everything, against a simple model


@dataclass
class Model:
    """One cohort, told in as few words as possible."""

    digests: dict[int, str] = field(default_factory=dict)
    deadline: float = math.inf
    closed: bool = False
    round: int = 0
    holder: tuple[str, float] | None = None
    result: bytes | None = None


INDEX, WHO = st.integers(0, 2), st.sampled_from(["one", "two"])


def test_any_history_of_a_cohort_is_the_models(bench: Bench) -> None:
    """No member is lost or counted twice, the first result stays, a lease excludes: whatever happens in any order."""

    class History(RuleBasedStateMachine):
        @initialize(quorum=st.integers(2, 4), partial=st.booleans())
        def begin(self, quorum: int, partial: bool) -> None:
            self.key, self.now, self.model = bench.key(), 0.0, Model()
            self.policy = Policy(partial, quorum)

        @rule(index=INDEX, response=st.sampled_from("aab"), wait_s=st.integers(1, 30))
        def joins(self, index: int, response: str, wait_s: int) -> None:
            m = self.model
            clashes = m.digests.get(index, response) != response or (m.closed and index not in m.digests)
            try:
                seen = bench.join(self.key, index, response, wait_s=wait_s)
            except Conflict:
                assert clashes
                return
            assert not clashes
            if not m.closed:
                m.digests[index] = response
                m.deadline = min(m.deadline, self.now + wait_s)
                m.closed = len(m.digests) == TERMS.size
            assert seen.present == tuple(sorted(m.digests))
            self.agrees(seen)

        @rule()
        def expires(self) -> None:
            m = self.model
            due = not m.closed and self.now >= m.deadline
            after = bench.run(bench.store.expire(self.key, self.policy, b"late"))
            if after is None:
                assert not m.digests
                return
            enough = self.policy.partial and len(m.digests) >= self.policy.quorum
            assert after.failed == (due and not enough)
            if due and enough:
                m.closed = True
            elif due:
                m.round, m.deadline = m.round + 1, math.inf
            self.agrees(after.snapshot)

        @rule(who=WHO)
        def claims(self, who: str) -> None:
            m = self.model
            free = m.closed and m.result is None and (m.holder is None or self.now >= m.holder[1])
            gathered = bench.run(bench.store.claim(self.key, who, 5))
            assert (gathered is not None) == free
            if gathered is not None:
                assert gathered.responses == m.digests
                m.holder = (who, self.now + 5)

        @rule(who=WHO)
        def fails(self, who: str) -> None:
            m = self.model
            holds = m.result is None and m.holder is not None and m.holder[0] == who
            assert bench.run(bench.store.fail(self.key, who, b"broken")) == holds
            if holds:
                m.round, m.deadline, m.holder = m.round + 1, math.inf, None

        @rule(who=WHO)
        def releases(self, who: str) -> None:
            bench.run(bench.store.release(self.key, who))
            if self.model.holder is not None and self.model.holder[0] == who:
                self.model.holder = None

        @rule(who=WHO)
        def renews(self, who: str) -> None:
            m = self.model
            holds = m.result is None and m.holder is not None and m.holder[0] == who
            assert bench.run(bench.store.renew(self.key, who, 5)) == holds
            if holds:
                m.holder = (who, self.now + 5)

        @rule(who=WHO)
        def finishes(self, who: str) -> None:
            m = self.model
            if not m.closed:
                return
            first = m.result is None
            m.result = m.result if m.result is not None else f"result of {who}".encode()
            assert bench.run(bench.store.finish(self.key, who, f"result of {who}".encode())) == (m.result, first)
            m.holder = None

        @rule(seconds=st.sampled_from([1, 4, 6, 20]))
        def time_passes(self, seconds: int) -> None:
            bench.let_pass(seconds)
            self.now += seconds

        def agrees(self, seen: Snapshot) -> None:
            m = self.model
            assert (seen.closed, seen.round, seen.result) == (m.closed, m.round, m.result)
            assert seen.present == tuple(sorted(m.digests))

    run_state_machine_as_test(History, settings=bar(5_000, stateful_step_count=30).settings)
