"""The plan of faults is fair, and what went wrong is seen in the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.endurance import DEADLINE_S, ENGINE_FAULTS, QUIET_S, Body, Run, Seen, _report, plan_faults
from benchmarks.fault_proxy import WEATHERS
from benchmarks.figures import Report


def test_every_kind_of_fault_comes_before_any_comes_again() -> None:
    kinds = {*ENGINE_FAULTS, *WEATHERS}
    plan = plan_faults(60 * (len(kinds) + 1), 60, 1)
    assert len(plan) == len(kinds)
    assert {fault.name for fault in plan} == kinds
    times = [fault.at_s for fault in plan]
    assert times == sorted(times)
    assert min(times) >= QUIET_S
    assert plan != plan_faults(60 * (len(kinds) + 1), 60, 2)


def good() -> Run:
    run = Run(sent={"a", "b"}, acked={"a"}, committed=2, struck=3)
    run.seen = [Seen(float(at), 0.1, "answered") for at in range(60)]
    run.bodies = [Body(100.0, 20, 5) for _ in range(9)]
    return run


def report(run: Run) -> Report:
    return _report(run, plan_faults(60, 10, 1), 10, 60, 1)


def test_a_good_run_holds() -> None:
    assert report(good()).holds


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wrong", ["Question 1: 0.2 instead of 0.3"]),
        ("committed", 0),
        ("committed", 3),
        ("seen", [Seen(59.0, 0.1, "engine_dead")]),
        ("seen", [Seen(30.0, DEADLINE_S + 1.5, "answered")]),
        ("seen", [Seen(30.0, 2 * DEADLINE_S + 1, "stuck")]),
        ("bodies", []),
        ("bodies", [Body(100.0, 20, 5)] * 6 + [Body(150.0, 20, 5)] * 3),
        ("bodies", [Body(100.0, 20, 5)] * 6 + [Body(100.0, 60, 5)] * 3),
        ("bodies", [Body(100.0, 20, 5)] * 6 + [Body(100.0, 20, 50)] * 3),
        ("struck", 0),
    ],
)
def test_what_went_wrong_is_missed(field: str, value: Any) -> None:
    assert not report(replace(good(), **{field: value})).holds
