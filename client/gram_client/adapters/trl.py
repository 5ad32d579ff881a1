"""TRL: reward functions for GRPO, RLOO and OnlineDPO (written against trl 1.16; docs/trainers/trl.md).

    trainer = GRPOTrainer(model, reward_funcs=reward_func("http://127.0.0.1:8000"), ...)

What TRL asks of a reward function: keywords ``prompts, completions, completion_ids``, every other column of the data
set, ``trainer_state``, ``log_extra`` and ``log_metric``; a list of floats back, with None for "no reward" (GRPO and
RLOO leave such a row out of its group's baseline since 1.6). An exception ends the run. AsyncGRPO pickles the function.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_client.adapters.batches import Batch, Reward, Sample, lost, plan, unsent
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import is_visible, prompt_of, response_of, text_of
from gram_client.errors import NotFound, ScoringError, Unauthorized
from gram_client.items import Member, Prompt
from gram_client.scores import Scores

logger = logging.getLogger(__name__)

Rewards = list[float | None]
_calls: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
"""Calls of each run in this process: ranks make them in step, so equal counts are the same batch."""


@dataclass(frozen=True)
class _Reward:
    """All that a reward function is made of; see `reward_func`. An object, so that it pickles and has a name of its own
    (functools.partial goes by the name of what it wraps)."""

    judging: Judging
    name: str
    reference: str | None
    group_size: int | None
    run_id: str
    on_failure: float | None
    on_empty: float | None
    rationales: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.name)  # what TRL logs


class TrlReward(_Reward):
    """For every trainer of TRL."""

    def __call__(self, /, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        ends = time.monotonic() + self.judging.timeout_s
        samples, call, read = _asked(self, prompts, completions, columns)
        client = self.judging.client()
        try:
            rewards = read(call(client))
        except ScoringError as error:
            rewards = _lost(samples, error)
        reasons = [""] * len(samples)
        for first, second in _worth_a_reason(samples, rewards, self):
            try:
                left = max(0.001, ends - time.monotonic())
                text = _text(client.rationale(*_pair(samples, first, second), timeout_s=left))
            except ScoringError as error:
                text = f"(no rationale: {error})"
            reasons[first] = reasons[second if second >= 0 else first] = text
        return _told(self, samples, rewards, reasons, columns)


class AsyncTrlReward(_Reward):
    """For GRPO and RLOO, which await it beside other functions (TRL 1.14 and later see that it is asynchronous)."""

    async def __call__(self, /, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        ends = time.monotonic() + self.judging.timeout_s
        samples, call, read = _asked(self, prompts, completions, columns)
        client = self.judging.async_client()
        try:
            called = call(client)
            rewards = read(called if isinstance(called, Scores) else await called)
        except ScoringError as error:
            rewards = _lost(samples, error)
        places = _worth_a_reason(samples, rewards, self)
        left = max(0.001, ends - time.monotonic())
        asked = [client.rationale(*_pair(samples, first, second), timeout_s=left) for first, second in places]
        reasons = [""] * len(samples)
        for (first, second), found in zip(places, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(found, BaseException) and not isinstance(found, ScoringError):
                raise found
            text = f"(no rationale: {found})" if isinstance(found, ScoringError) else _text(found)
            reasons[first] = reasons[second if second >= 0 else first] = text
        return _told(self, samples, rewards, reasons, columns)


def reward_func(
    base_url: str | None = None,
    *,
    run: str = "sync",
    name: str = "gram",
    reference: str | None = None,
    group_size: int | None = None,
    run_id: str | None = None,
    on_failure: float | None = None,
    on_empty: float | None = None,
    rationales: int = 0,
    **judging: Any,
) -> TrlReward | AsyncTrlReward:
    """A reward function for TRL: picklable, with a name that TRL logs; ``run="async"`` for one that TRL awaits.

    Responses to one prompt are scored against each other, however they lie in the batch. `reference` names a column
    instead whose text each response is compared with. With `group_size` = ``num_generations``, groups that are split
    over processes are put together by the service; several processes must then be given one `run_id`, new for each
    start.

    A failure is None unless `on_failure` says otherwise; so is an empty response, unless `on_empty` does.
    `rationales`: for so many groups a call, the judge's reasons for the best against the worst response are written
    into the completions table. Other keywords are those of `Judging` (``api_key``, ``judge``, ``timeout_s``, ...).

    Raises `ValueError` for options that contradict each other. The function itself raises `Unauthorized` and `NotFound`
    (a wrong key, a judge that is not there); whatever else happens is logged and gives no reward.
    """
    if run not in ("sync", "async"):
        raise ValueError('run is "sync" or "async".')
    if reference is not None:
        if group_size is not None:
            raise ValueError("Give reference or group_size: a response is compared with one or the other.")
        judging = {"mode": "references", **judging}
    if group_size is not None and run_id is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("With several processes group_size needs a run_id: one text for all, new for each start.")
    kind = AsyncTrlReward if run == "async" else TrlReward
    run_id = run_id or uuid.uuid4().hex
    where = Judging(base_url, **judging)
    return kind(where, name, reference, group_size, run_id, on_failure, on_empty, rationales)


# --- what is asked ----------------------------------------------------------------------------------------------------

Asked = tuple[Sequence[Sample], Callable[[Any], Any], Callable[[Scores], list[Reward]]]


def _asked(settings: _Reward, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> Asked:
    """The samples, the call of a client, and how its scores become their rewards."""
    references = [None] * len(prompts) if settings.reference is None else columns.get(settings.reference)
    if references is None:
        raise ValueError(f"The data set has no column {settings.reference!r}, which reference names.")
    samples = [
        Sample(prompt_of(prompt), response_of(completion), None if reference is None else text_of(reference))
        for prompt, completion, reference in zip(prompts, completions, references, strict=True)
    ]
    if settings.group_size is not None:
        return _cohort(settings, settings.group_size, samples)
    batch: Batch = plan(samples, settings.judging)
    empty = Scores()
    return samples, lambda client: batch.call(client) if batch.items else empty, batch.read


def _cohort(settings: _Reward, size: int, samples: Sequence[Sample]) -> Asked:
    """Each sample as a member of its group in the batch of all processes, where `size` in a row have one prompt."""
    first = int(os.environ.get("RANK", "0")) * len(samples)
    call_number = next(_calls[settings.run_id])
    sent = [i for i, sample in enumerate(samples) if is_visible(sample.response)]
    prompts: dict[int, Prompt] = {}
    for i, sample in enumerate(samples):
        if prompts.setdefault((first + i) // size, sample.prompt) != sample.prompt:
            raise ValueError(f"Not every {size} completions have one prompt; group_size must be num_generations.")
    members = [
        Member(
            prompt=samples[i].prompt,
            response=samples[i].response,
            group_id=f"{settings.run_id}/{call_number}/{(first + i) // size}",
            size=size,
            index=(first + i) % size,
        )
        for i in sent
    ]

    def read(scores: Scores) -> list[Reward]:
        found = dict(zip(sent, scores.rows, strict=True))
        return [
            Reward(row.reward, row.score, row.error.code if row.error else "", row.error.message if row.error else "")
            if (row := found.get(i))
            else unsent("empty_response")
            for i in range(len(samples))
        ]

    normalize = settings.judging.normalize
    return samples, lambda client: client.score_cohort(members, normalize=normalize) if members else Scores(), read


def _lost(samples: Sequence[Sample], error: ScoringError) -> list[Reward]:
    if isinstance(error, (Unauthorized, NotFound)):
        raise error  # a mistake of the configuration; no waiting mends it, and training on nothing hides it
    return [lost(error) if is_visible(sample.response) else unsent("empty_response") for sample in samples]


# --- reasons ----------------------------------------------------------------------------------------------------------


def _worth_a_reason(samples: Sequence[Sample], rewards: Sequence[Reward], settings: _Reward) -> list[tuple[int, int]]:
    """Pairs to ask /rationale about: the best and the worst of the first groups; a second of -1: the reference."""
    if settings.reference is not None:
        return [(i, -1) for i, reward in enumerate(rewards) if reward.ok][: settings.rationales]
    groups: dict[str, list[int]] = {}
    for i, (sample, reward) in enumerate(zip(samples, rewards, strict=True)):
        if reward.ok:
            groups.setdefault(str(sample.prompt), []).append(i)
    pairs = []
    for members in list(groups.values())[: settings.rationales]:
        members.sort(key=lambda i: -(rewards[i].value or 0.0))
        if samples[members[0]].response != samples[members[-1]].response:
            pairs.append((members[0], members[-1]))
    return pairs


def _pair(samples: Sequence[Sample], first: int, second: int) -> tuple[Prompt, str, str]:
    one = samples[first]
    return one.prompt, one.response, samples[second].response if second >= 0 else one.reference or ""


def _text(rationale: Any) -> str:
    """The first of the two orders: first response shown first."""
    return str(next((reason.text for reason in rationale.rationales if reason.order == "ab"), ""))


# --- what TRL is told -------------------------------------------------------------------------------------------------


def _told(
    settings: _Reward,
    samples: Sequence[Sample],
    rewards: Sequence[Reward],
    reasons: Sequence[str],
    columns: Mapping[str, Any],
) -> Rewards:
    """The rewards, with what happened in TRL's own logs: every process tells every call, as TRL gathers them."""
    failures = [reward for reward in rewards if not reward.ok]
    rate = len(failures) / max(1, len(rewards))
    if failures:
        logger.warning("%d of %d responses have no reward: %s", len(failures), len(rewards), failures[0].why)
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    if log_metric is not None:
        log_metric(f"{settings.name}/failure_rate", rate)
    elif failures and (state := columns.get("trainer_state")) is not None:
        # OnlineDPO offers no way to log, counts None as 0 and prefers the first of two that are equal.
        state.log_history.append({"step": state.global_step, f"{settings.name}/failure_rate": rate})
    if log_extra is not None and settings.rationales:
        said = [f"(failed: {r.why})" if not r.ok else reason for r, reason in zip(rewards, reasons, strict=True)]
        log_extra(f"{settings.name}_rationale", said)
    return [_value(settings, reward) for reward in rewards]


def _value(settings: _Reward, reward: Reward) -> float | None:
    if reward.ok:
        return reward.value
    if reward.error == "empty_response" and settings.on_empty is not None:
        return settings.on_empty
    return settings.on_failure
