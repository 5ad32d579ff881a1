from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.seating import Seat, Seating
from tests.support.properties import bar


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def place(seat: Seat) -> tuple[str, int]:
    return seat.table.id, seat.index


def test_rollouts_sit_down_in_the_order_they_come_and_a_full_group_is_followed_by_another() -> None:
    seating = Seating(60)
    first = [seating.take("q", 3, f"r{i}") for i in range(3)]
    assert [seat.index for seat in first] == [0, 1, 2]
    assert len({seat.table.id for seat in first}) == 1
    assert seating.take("q", 3, "r0").table.id != first[0].table.id
    assert seating.take("another", 3, "r0").table.id not in {first[0].table.id}


def test_equal_rollouts_that_wait_have_places_of_their_own() -> None:
    seating = Seating(60)
    one, two = seating.take("q", 2, "same"), seating.take("q", 2, "same")
    assert (one.table, one.index, two.index) == (two.table, 0, 1)


def test_a_rollout_that_left_gets_its_own_place_back_even_in_a_full_group() -> None:
    seating = Seating(60)
    one = seating.take("q", 2, "r0")
    seating.left(one)
    two = seating.take("q", 2, "r1")
    assert place(seating.take("q", 2, "r0")) == place(one)
    assert two.index == 1
    seating.left(two)
    assert place(seating.take("q", 2, "r1")) == place(two)


def test_a_group_that_was_answered_takes_nobody_new_but_those_who_left_it() -> None:
    seating = Seating(60)
    one, two = seating.take("q", 4, "r0"), seating.take("q", 4, "r1")
    seating.left(two)
    seating.answered(one)
    assert seating.take("q", 4, "r2").table.id != one.table.id
    back = seating.take("q", 4, "r1")
    assert place(back) == place(two)
    seating.answered(back)
    assert seating.take("q", 4, "r0").table.id != one.table.id, "an answered rollout that comes again is a new one"


def test_another_size_begins_another_group() -> None:
    seating = Seating(60)
    assert seating.take("q", 4, "r0").table.id != seating.take("q", 3, "r1").table.id


def test_what_nobody_comes_back_to_is_forgotten() -> None:
    clock = Clock()
    seating = Seating(60, clock)
    seating.left(seating.take("q", 2, "r0"))
    clock.now += 59
    assert seating.take("q", 2, "r0").index == 0
    clock.now += 61
    assert len(seating) == 1
    seating.take("other", 2, "r0")
    assert len(seating) == 1


def test_no_place_is_given_twice() -> None:
    """Whatever comes, leaves and is answered: two waiting rollouts never share a place, places hold one response."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.seating = Seating(60)
            self.waiting: list[Seat] = []
            self.responses: dict[tuple[str, int], str] = {}

        @rule(prompt=st.sampled_from("pq"), response=st.sampled_from("abc"))
        def comes(self, prompt: str, response: str) -> None:
            seat = self.seating.take(prompt, 3, response)
            assert self.responses.setdefault(place(seat), response) == response
            assert seat.index < 3
            self.waiting.append(seat)

        @rule(number=st.integers(0, 10), answered=st.booleans())
        def goes(self, number: int, answered: bool) -> None:
            if self.waiting:
                seat = self.waiting.pop(number % len(self.waiting))
                (self.seating.answered if answered else self.seating.left)(seat)

        @invariant()
        def places_are_distinct(self) -> None:
            assert len(set(map(place, self.waiting))) == len(self.waiting)

    run_state_machine_as_test(Machine, settings=bar(2_000).settings)  # type: ignore[no-untyped-call]
