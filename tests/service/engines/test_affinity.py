"""Rendezvous hashing with bounded loads: together, evenly spread, and moving only what must move."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.engines.affinity import OVERLOAD, REMEMBERED, SLACK, Ranks, Router, preference
from tests.support.properties import bar

COPIES = ["http://a:8000", "http://b:8000", "http://c:8000", "http://d:8000"]
KEYS = [number.to_bytes(16, "big") for number in range(4000)]
IDLE = dict.fromkeys(COPIES, 0)


def test_every_process_decides_alike() -> None:
    for key in KEYS[:100]:
        assert preference(key, COPIES) == preference(key, COPIES[::-1])
    assert preference(KEYS[0], COPIES) == [COPIES[i] for i in (0, 2, 1, 3)]  # pinned: other versions agree


def test_groups_spread_evenly() -> None:
    """Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand by fair dice."""
    counts = Counter(preference(key, COPIES)[0] for key in KEYS)
    expected = len(KEYS) / len(COPIES)
    assert sum((counts[name] - expected) ** 2 / expected for name in COPIES) < 16.3


def test_losing_a_copy_moves_its_groups_only_and_spreads_them() -> None:
    before = {key: preference(key, COPIES)[0] for key in KEYS}
    after = {key: preference(key, COPIES[1:])[0] for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {before[key] for key in moved} == {COPIES[0]}
    counts = Counter(after[key] for key in moved)
    expected = len(moved) / 3
    assert sum((counts[name] - expected) ** 2 / expected for name in COPIES[1:]) < 13.8  # 2 degrees of freedom


def test_a_group_as_large_as_the_slack_stays_on_an_idle_copy() -> None:
    router, loads = Router(), dict(IDLE)
    for _ in range(SLACK):
        loads[router.pick(KEYS[0], loads)] += 1
    assert sorted(loads.values()) == [0, 0, 0, SLACK]


def test_an_overloaded_copy_passes_a_group_on_and_the_group_stays_there() -> None:
    router = Router()
    first, second, *_ = preference(KEYS[0], COPIES)
    assert router.pick(KEYS[0], IDLE | {first: 1000}) == second
    assert router.pick(KEYS[0], IDLE) == second  # its prefixes are there now
    assert router.pick(KEYS[0], IDLE | {second: 1000}) == first
    assert router.pick(KEYS[0], IDLE) == first


def test_a_group_whose_new_copy_is_lost_goes_back() -> None:
    router = Router()
    first, second, *_ = preference(KEYS[0], COPIES)
    router.pick(KEYS[0], IDLE | {first: 1000})
    assert router.pick(KEYS[0], {name: 0 for name in COPIES if name != second}) == first
    assert router.pick(KEYS[0], IDLE) == first


def test_what_is_remembered_is_bounded() -> None:
    router = Router()
    for number in range(REMEMBERED + 500):
        key = number.to_bytes(16, "big")
        router.pick(key, IDLE | {preference(key, COPIES)[0]: 1000})
    assert len(router._passed_on) == REMEMBERED


@bar(1000)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=600), st.integers(1, 8), st.data())
def test_no_copy_is_ever_loaded_beyond_the_bound(groups: list[int], copies: int, data: st.DataObject) -> None:
    """A popular question, bursts and random ends: at each choice the bound holds, and some copy is always found."""
    router, names = Router(), [f"copy {i}" for i in range(copies)]
    loads = dict.fromkeys(names, 0)
    for group in groups:
        chosen = router.pick(KEYS[group], loads)
        loads[chosen] += 1
        mean = sum(loads.values()) / copies
        assert loads[chosen] <= max(OVERLOAD * mean + SLACK, mean + 1)
        if data.draw(st.booleans()):
            busiest = max(names, key=lambda name: loads[name])
            loads[busiest] -= 1


def test_ranks_are_counted_while_they_work() -> None:
    ranks = Ranks(4)
    with ranks.choose(KEYS[1]) as one, ranks.choose(KEYS[1]) as other, ranks.choose(None) as free:
        assert one == other is not None
        assert free is None
        assert sum(ranks.in_flight.values()) == 2
    assert set(ranks.in_flight.values()) == {0}
    with Ranks(1).choose(KEYS[1]) as only:
        assert only is None
