"""verl: `compute_score` for ``reward.custom_reward_function`` and, for trainers up to 0.8, `compute_score_batch`
(written against verl 0.9.1; docs/trainers/verl.md).

    reward.custom_reward_function.path=pkg://gram_client.adapters.verl
    reward.custom_reward_function.name=compute_score

verl turns what is returned into tensors: a number under ``score`` is a must, None and NaN are not survived, an
exception kills the step, and every sample must have the same keys. So a failure is a neutral number with ``ok: 0.0``
beside it, which verl logs like any other key, and nothing is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gram_client.adapters.batches import Reward, Sample, judged, judged_async, lost
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import prompt_of
from gram_client.items import Normalize

logger = logging.getLogger(__name__)

NO_PROMPT = "no_prompt"


def scored(reward: Reward, judging: Judging, on_failure: float | None = None) -> dict[str, Any]:
    """What verl is told of one sample, with the same keys whatever happened: ``score`` to train on, ``ok`` 1.0 or 0.0,
    ``judged`` the judge's own score before any normalization (0.5 where there is none), ``error`` a word or empty."""
    if not reward.ok:
        logger.warning("No reward for a sample: %s", reward.why)
    neutral = judging.neutral if on_failure is None else on_failure
    return {
        "score": neutral if reward.value is None else reward.value,
        "ok": float(reward.ok),
        "judged": 0.5 if reward.score is None else reward.score,
        "error": reward.error,
    }


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any = None,
    extra_info: Mapping[str, Any] | None = None,
    *,
    prompt_key: str = "question",
    reference_key: str = "reference",
    ground_truth_is_reference: bool = False,
    on_failure: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """One response against its reference, ``extra_info[reference_key]`` or the ground truth; with neither, by itself
    (scalar judges, stored references). verl passes no prompt: ``extra_info[prompt_key]`` must hold it.

    `options` are those of `Judging`; others that verl passes are ignored. Groups need `verl_manager`.
    """
    judging = judging_of({"timeout_s": 120.0} | options)
    try:
        sample = _sample(solution_str, ground_truth, extra_info, prompt_key, reference_key, ground_truth_is_reference)
        if sample is None:
            return scored(Reward(None, None, NO_PROMPT, f"extra_info has no {prompt_key!r}."), judging, on_failure)
        judging = replace(judging, mode="singles" if sample.reference is None else "references")
        (reward,) = await judged_async([sample], judging)
    except Exception as error:
        reward = lost(error)  # verl knows no sample without a score, so it is told in numbers
    return scored(reward, judging, on_failure)


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None],
    *,
    prompt_key: str = "question",
    reference_key: str = "reference",
    ground_truth_is_reference: bool = False,
    on_failure: float | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The same for the ``batch`` manager of older trainers, which sees whole groups: responses to equal prompts are
    scored against each other, unless every sample has a reference."""
    judging = judging_of(options)
    samples: list[Sample | None] = [None] * len(solution_strs)
    rewards = [Reward(None, None, NO_PROMPT, f"extra_info has no {prompt_key!r}.")] * len(solution_strs)
    try:
        for i, (solution, truth, info) in enumerate(zip(solution_strs, ground_truths, extra_infos, strict=True)):
            samples[i] = _sample(solution, truth, info, prompt_key, reference_key, ground_truth_is_reference)
        found = [(i, sample) for i, sample in enumerate(samples) if sample is not None]
        referenced = all(sample.reference is not None for _, sample in found)
        judging = replace(judging, mode="references" if referenced else "groups")
        for (i, _), reward in zip(found, judged([sample for _, sample in found], judging), strict=True):
            rewards[i] = reward
    except Exception as error:
        rewards = [lost(error)] * len(rewards)  # as above
    return [scored(reward, judging, on_failure) for reward in rewards]


def judging_of(options: Mapping[str, Any]) -> Judging:
    """Of what a configuration says, with ``normalize`` as a mapping; what is not ours is left out."""
    known = {name: options[name] for name in Judging.__dataclass_fields__ if options.get(name) is not None}
    if isinstance(known.get("normalize"), Mapping):
        known["normalize"] = Normalize(**known["normalize"])
    return Judging(**known)


def _sample(
    solution: str, truth: Any, info: Mapping[str, Any] | None, prompt_key: str, reference_key: str, truth_is: bool
) -> Sample | None:
    """None without a prompt."""
    prompt = (info or {}).get(prompt_key)
    if prompt is None:
        return None
    reference = (info or {}).get(reference_key) or (truth if truth_is else None)
    return Sample(prompt_of(prompt), solution, None if reference is None else str(reference))
