"""slime: reward functions for ``--custom-rm-path`` (written against slime's rm_hub; docs/trainers are for the others,
and ``--rm-type remote_rm --rm-url http://HOST:PORT/remote_rm`` needs no Python at all).

    --custom-rm-path gram_client.adapters.slime.reward                  one sample at a time
    --custom-rm-path gram_client.adapters.slime.group_reward --group-rm a whole group of one prompt

slime needs a number for every sample. A failed one gets a neutral one, is left out of the loss by slime's own mark
(``sample.remove_sample``) and says why in ``sample.metadata["gram"]``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from gram_client.adapters.batches import Reward, Sample, judged_async
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import prompt_of

logger = logging.getLogger(__name__)


def judging_for(args: Any, mode: Any) -> Judging:
    """From slime's arguments: ``gram_url``, ``gram_api_key``, ``gram_judge``, ``gram_timeout_s`` of a
    ``--custom-config-path`` file; else the environment variables of `gram_client.adapters.judging`."""
    return Judging(
        base_url=getattr(args, "gram_url", None),
        api_key=getattr(args, "gram_api_key", None),
        judge=getattr(args, "gram_judge", None),
        timeout_s=float(getattr(args, "gram_timeout_s", None) or 300.0),
        mode=mode,
    )


async def reward(args: Any, sample: Any, **kwargs: Any) -> Any:
    """One sample against its label, a non-empty text; without one, by itself (scalar judges, stored references).

    slime calls it with a list where it scores in batches; each of them is then judged so.
    """
    samples = list(sample) if isinstance(sample, (list, tuple)) else [sample]
    asked = [Sample(prompt_of(one.prompt), one.response, _reference(one)) for one in samples]
    rewards: dict[int, Reward] = {}
    for mode in ("references", "singles"):
        places = [i for i, one in enumerate(asked) if (one.reference is None) == (mode == "singles")]
        found = await judged_async([asked[i] for i in places], judging_for(args, mode)) if places else []
        rewards |= zip(places, found, strict=True)
    values = _marked(samples, [rewards[i] for i in range(len(samples))])
    return values if isinstance(sample, (list, tuple)) else values[0]


async def group_reward(args: Any, samples: Sequence[Any], **kwargs: Any) -> list[float]:
    """Each sample's mean win probability over the others of its group."""
    asked = [Sample(prompt_of(one.prompt), one.response, group=str(one.group_index)) for one in samples]
    return _marked(samples, await judged_async(asked, judging_for(args, "groups")))


def _reference(sample: Any) -> str | None:
    return sample.label if isinstance(sample.label, str) and sample.label.strip() else None


def _marked(samples: Sequence[Any], rewards: Sequence[Reward]) -> list[float]:
    """A number for each: that of a failed one is the mean of the others, which moves no baseline."""
    known = [reward.value for reward in rewards if reward.value is not None]
    neutral = sum(known) / len(known) if known else 0.5
    for sample, reward in zip(samples, rewards, strict=True):
        sample.metadata = {**(sample.metadata or {}), "gram": {"ok": float(reward.ok), "error": reward.error}}
        if not reward.ok:
            sample.remove_sample = True
    failures = [reward for reward in rewards if not reward.ok]
    if failures:
        logger.warning("%d of %d samples are out of the loss: %s", len(failures), len(rewards), failures[0].why)
    return [neutral if reward.value is None else reward.value for reward in rewards]
