"""How many replicas: by the engine prompts inside, as the autoscaler of deploy/kubernetes does.

Ray's own measure is requests, but a /compare is two prompts and a /rank of 64 up to 4,032. Ray pickles this file and
runs it in its controller, so it stands alone.
"""

from __future__ import annotations

from typing import Any

METRIC = "prompts"
"""What each replica reports (`RewardService.record_autoscaling_stats`)."""


class PromptsPolicy:
    """Ray's protocol: called with an `AutoscalingContext`, returns the replicas wanted and its state.

    Bounds, delays and factors of the deployment's `AutoscalingConfig` are applied by Ray afterwards.
    """

    def __init__(self, target_prompts: float) -> None:
        self.target_prompts = target_prompts

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        inside = (context.aggregated_metrics or {}).get(METRIC)
        if not inside:  # nobody has reported yet
            return context.target_num_replicas, {}
        return sum(inside.values()) / self.target_prompts, {}
