"""verl: a reward manager that knows prompts and groups (written against verl 0.9.1; docs/trainers/verl.md).

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://gram_client.adapters.verl_manager
    reward.reward_manager.name=GramRewardManager

verl hands each response to one of several workers as soon as it is written, so no worker sees a whole group. This
manager sends it as a member of a cohort; the service puts the group together by verl's own ``uid`` and answers all at
once. The place in the group is ``priority`` modulo ``rollout.n``: verl numbers the rollouts of a batch, a prompt's in a
row.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from gram_client.adapters.batches import Reward, Sample, judged_async, lost, of_row, unsent
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import is_visible, prompt_of
from gram_client.adapters.verl import judging_of, scored
from gram_client.items import Member

logger = logging.getLogger(__name__)

VALIDATION = frozenset({"test", "val", "validation", "eval"})


class GramRewardManager(RewardManagerBase):
    """Options stand under ``reward.custom_reward_function.reward_kwargs``, whose ``path`` stays unset: those of
    `Judging`, ``reference_key``, ``on_failure``, ``group_size`` (default: ``rollout.n``).

    A sample with ``extra_info[reference_key]`` is compared with that. Where a group has one member (``n = 1``, or
    validation, which ``extra_info["split"]`` tells) and there is no reference, the response is judged by itself.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **passed: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        options = dict(config.reward.get("custom_reward_function", {}).get("reward_kwargs") or {})
        rollout = config.actor_rollout_ref.rollout
        self.judging: Judging = judging_of(options)
        self.group_size = int(options.get("group_size") or rollout.n)
        self.validation_size = int((rollout.get("val_kwargs") or {}).get("n") or 1)
        self.reference_key = str(options.get("reference_key", "reference"))
        self.on_failure = options.get("on_failure")

    async def run_single(self, data: Any) -> dict[str, Any]:
        """verl's call for one trajectory. Never raises but for cancellation."""
        try:
            reward = await self._judge(data[-1:][0])
        except Exception as error:
            reward = lost(error)  # verl knows no sample without a score, so it is told in numbers
        told = scored(reward, self.judging, self.on_failure)
        return {"reward_score": told["score"], "reward_extra_info": told}

    async def _judge(self, item: Any) -> Reward:
        info = item.non_tensor_batch
        extra = info.get("extra_info") or {}
        response = await self.loop.run_in_executor(None, self._decoded, item)
        prompt = prompt_of(list(info["raw_prompt"]))
        reference = extra.get(self.reference_key)
        size = self.validation_size if extra.get("split") in VALIDATION else self.group_size
        if reference is not None or size < 2:
            mode: Any = "singles" if reference is None else "references"
            (reward,) = await judged_async([Sample(prompt, response, reference)], replace(self.judging, mode=mode))
            return reward
        if not is_visible(response):
            return unsent("empty_response")
        place = _place(info, size)
        member = Member(prompt, response, group_id=str(info["uid"]), size=size, index=place)
        scores = await self.judging.async_client().score_cohort(member, normalize=self.judging.normalize)
        return of_row(scores.rows[0])

    def _decoded(self, item: Any) -> str:
        """The response without padding and special tokens."""
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True))


def _place(info: Mapping[str, Any], size: int) -> int:
    """Raises `LookupError` where verl numbers no rollouts (before 0.9)."""
    if info.get("priority") is None:
        raise LookupError("verl passes no priority, so places in a group are not known; use verl 0.9 or references.")
    return int(info["priority"]) % size
