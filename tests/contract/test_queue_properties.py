"""The reward queue's properties Q1 .. Q14 on every store. `make soak PART=Q7` runs all examples of one of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import queue_histories as histories
from tests.support import queue_properties as properties
from tests.support.properties import scaled
from tests.support.queue_bench import Bench

CHECKS: list[Callable[[Bench], None]] = [
    properties.q1_statistics_are_exact,
    properties.q2_order_inside_the_window_does_not_matter,
    properties.q3_any_input_is_refused_or_counted_finitely,
    properties.q4_a_repeated_request_counts_once,
    properties.q5_queues_do_not_touch_each_other,
    properties.q5_any_change_of_the_key_is_another_queue,
    properties.q6_reading_writes_nothing,
    properties.q6_keyed_evaluations_write_no_score,
    properties.q7_cold_start_ends_exactly_at_min_count,
    properties.q8_a_constant_window_is_degenerate,
    properties.q9_rewards_do_not_know_units,
    properties.q13_an_outlier_leaves_no_trace,
    histories.q14_a_saved_queue_comes_back_byte_for_byte,
    histories.q14_damaged_exports_are_refused_whole,
    histories.any_sequence_of_calls_matches_the_model,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_property(bench: Bench, check: Callable[[Bench], None]) -> None:
    check(bench)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_q10_a_commit_happens_whole_or_not_at_all(bench: Bench, keyed: bool, exists: bool) -> None:
    histories.q10_a_commit_happens_whole_or_not_at_all(bench, keyed, exists)


@pytest.mark.parametrize("seed", range(scaled(20, at_least=1)))
def test_q11_replicas_see_one_history(bench: Bench, seed: int) -> None:
    histories.q11_replicas_see_one_history(bench, seed)


def test_q12_memory_is_bounded_and_the_cap_is_an_error(bench: Bench) -> None:
    histories.q12_memory_is_bounded_and_the_cap_is_an_error(bench)
