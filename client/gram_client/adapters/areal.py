"""AReaL: reward functions for RLVRWorkflow (written against areal 1.0.4; docs/trainers/areal.md).

    RLVRWorkflow(reward_fn="gram_client.adapters.areal.reward_fn", ...)

AReaL runs the function in a pool of processes and gives up on it after 15 s, four times; then the reward is 0, as if
the answer had been judged. `reward_fn` is done before that: in its own 12 s it has a score or raises, and a trajectory
whose reward raises is rejected by AReaL, counted under ``rollout/rejected``. The pool's queue runs on the same clock,
though; `AsyncReward` needs no pool and has no such clock.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gram_client.adapters.batches import Reward, Sample, judged, judged_async
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import prompt_of, text_of
from gram_client.errors import FailedJudgment
from gram_client.items import Prompt

DEADLINE_S = 12.0
"""Below AReaL's 15 s, with room for starting a process."""
REFERENCE_VARIABLE = "GRAM_CLIENT_REFERENCE_COLUMN"
_ENDINGS = re.compile(r"(?:\s*(?:<\|[^|<>\n]{1,40}\|>|</s>|<eos>|<end_of_turn>))+\s*$")


def reward_fn(prompt: str, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **row: Any) -> float:
    """One completion against the row's reference (column ``reference``, or as GRAM_CLIENT_REFERENCE_COLUMN says); a row
    without one by itself (scalar judges, stored references). The prompt is the row's ``messages`` where it has them.

    Raises `FailedJudgment` where there is no score: AReaL then rejects the trajectory.
    """
    sample = _sample(prompt, completions, row)
    (reward,) = judged([sample], Judging(timeout_s=DEADLINE_S, mode=_mode(sample)))
    return _number(reward)


class AsyncReward:
    """The same without AReaL's pool and its clock, for a judge that writes rationales::

        workflow = RLVRWorkflow(reward_fn=reward_fn, ...)
        workflow.async_reward_fn = AsyncReward("http://judge:8000", timeout_s=120)

    Keywords are those of `Judging`.
    """

    def __init__(self, base_url: str | None = None, **judging: Any) -> None:
        self.judging = Judging(base_url, **judging)

    async def __call__(
        self, prompt: str, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **row: Any
    ) -> float:
        """Raises `FailedJudgment`."""
        sample = _sample(prompt, completions, row)
        (reward,) = await judged_async([sample], replace(self.judging, mode=_mode(sample)))
        return _number(reward)


def _sample(prompt: str, completion: str, row: Mapping[str, Any]) -> Sample:
    asked: Prompt = prompt_of(row["messages"]) if row.get("messages") else prompt
    reference = row.get(os.environ.get(REFERENCE_VARIABLE, "reference"))
    return Sample(asked, without_endings(completion), None if reference is None else text_of(reference))


def without_endings(text: str) -> str:
    """AReaL decodes with special tokens: those at the end are not part of the answer."""
    return _ENDINGS.sub("", text)


def _mode(sample: Sample) -> Any:
    return "singles" if sample.reference is None else "references"


def _number(reward: Reward) -> float:
    if reward.value is None:
        raise FailedJudgment(reward.message or "No score.", code=reward.error)
    return reward.value
