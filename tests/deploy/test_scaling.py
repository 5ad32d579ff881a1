"""How many replicas the prompts inside ask for; tests/deploy/ray runs it in a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deploy.ray.scaling import METRIC, PromptsPolicy


@pytest.mark.parametrize(
    ("inside", "wanted"),
    [({"a": 512.0}, 1.0), ({"a": 512.0, "b": 512.0}, 2.0), ({"a": 4032.0, "b": 0.0}, 7.875), ({"a": 0.0}, 0.0)],
)
def test_replicas_follow_the_prompts_of_all_of_them(inside: dict[str, float], wanted: float) -> None:
    context = SimpleNamespace(aggregated_metrics={METRIC: inside}, target_num_replicas=3)
    assert PromptsPolicy(target_prompts=512)(context) == (wanted, {})


@pytest.mark.parametrize("metrics", [None, {}, {METRIC: {}}])
def test_before_anybody_has_reported_nothing_changes(metrics: dict[str, dict[str, float]] | None) -> None:
    assert PromptsPolicy(512)(SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=3)) == (3, {})
