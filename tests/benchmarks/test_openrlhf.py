from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.openrlhf import GROUP, Outcome, by_groups, by_references
from benchmarks.rollouts import Rewarded


def rewarded(score: float, **changes: object) -> Rewarded:
    return replace(Rewarded([score], [score], {"ok": [1.0]}), **changes)  # type: ignore[arg-type]  # by name


GOOD = Outcome("references", [rewarded(0.25), rewarded(0.75)], [0.25, 0.75], 1.0, {"200": 2}, 4, 4)


def test_what_is_promised_holds_when_all_of_it_is_there() -> None:
    assert [bar.holds for bar in GOOD.bars()] == [True] * 4
    assert GOOD.row() == ["references", "2", "2", "1.0", "2", "2", "0", "4"]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"rewarded": GOOD.rewarded[::-1]}, 2),
        ({"rewarded": [rewarded(0.25), rewarded(0.75, reward=None)]}, 2),
        ({"rewarded": [rewarded(0.25), rewarded(0.75, extra_logs={"ok": [0.0]})]}, 2),
        ({"rewarded": [rewarded(0.25), rewarded(0.75, scores=[0.75000001])]}, 2),
        ({"statuses": {"200": 2, "503": 1}}, 1),
        ({"asked": 6}, 3),
    ],
)
def test_each_broken_promise_is_seen(changes: dict[str, object], missed: int) -> None:
    bars = replace(GOOD, **changes).bars()  # type: ignore[arg-type]  # by name
    assert [number for number, bar in enumerate(bars) if not bar.holds] == [missed]


def test_the_workloads_are_what_the_summary_says() -> None:
    posts = by_references(5000)
    assert (len(posts), posts[10], posts[11] != posts[12]) == (5000, posts[2], True)
    assert len(set(posts)) == 4200, "a fifth of the repeated numbers is posted only as repeats"
    groups = by_groups(5000)
    assert (len(groups), len(set(groups)), len({rollout.prompt for rollout in groups})) == (5000, 5000, 5000 // GROUP)
    assert {rollout.label for rollout in groups} == {""}
