"""They are scraped as the library's own are."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.loop_metrics import AT_ONCE, LoopCounter, LoopHistogram

LABELS = st.sampled_from(["a", 'quo"ted', "", "line\nbreak"])
BOUNDS = [(0.005, 0.1, 1, 10.0), (-2.0, 0.0, 2.0)]


def lines(registry: CollectorRegistry) -> set[str]:
    """What is scraped, but for the times at which the library's own were made."""
    return {line for line in generate_latest(registry).decode().splitlines() if "_created" not in line}


@given(st.lists(st.tuples(LABELS, LABELS, st.integers(0, 9)), max_size=20))
def test_a_counter_is_the_librarys(additions: Sequence[tuple[str, str, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = LoopCounter("gram_things", "Things.", ["judge", "kind"], ours)
    other = Counter("gram_things", "Things.", ["judge", "kind"], registry=theirs)
    for judge, kind, by in additions:
        mine.add(judge, kind, by=by)
        other.labels(judge, kind).inc(by)
        assert mine.value(judge, kind) == other.labels(judge, kind)._value.get()
    assert lines(ours) == lines(theirs)


VALUES = st.lists(st.tuples(LABELS, st.sampled_from([-3.0, -2.0, 0.0, 0.004, 0.005, 0.1, 0.5, 1.0, 1e9])), max_size=20)


@pytest.mark.parametrize("bounds", BOUNDS)
@given(VALUES, VALUES, st.integers(1, 5))
@example([("", 1e9)], [("", 0.1)] * 4, 4)  # where the order of the additions shows
def test_a_histogram_is_the_librarys(
    bounds: Sequence[float], values: Sequence[tuple[str, float]], later: Sequence[tuple[str, float]], at_once: int
) -> None:
    """However many values are sorted in together, and at every scrape."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = LoopHistogram("gram_seconds", "Seconds.", ["stage"], ours, bounds)
    other = Histogram("gram_seconds", "Seconds.", ["stage"], registry=theirs, buckets=bounds)
    with patch("service.loop_metrics.AT_ONCE", at_once):
        for some in (values, later):
            for stage, value in some:
                mine.observe(value, stage)
                other.labels(stage).observe(value)
            assert lines(ours) == lines(theirs)


def test_values_are_not_kept_for_ever() -> None:
    mine = LoopHistogram("gram_seconds", "Seconds.", ["stage"], CollectorRegistry(), (1.0,))
    for _ in range(10 * AT_ONCE + 7):
        mine.observe(0.5, "engine")
    assert [len(values) for values in mine._new.values()] == [7]


def test_what_was_never_added_is_nothing() -> None:
    assert LoopCounter("gram_things", "Things.", ["judge"], CollectorRegistry()).value("gram") == 0
