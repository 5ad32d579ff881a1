"""ms-swift: an asynchronous reward for GRPO (written against ms-swift 4.6; docs/trainers/ms-swift.md).

    echo 'import gram_client.adapters.swift' > gram_plugin.py
    swift rlhf --rlhf_type grpo --external_plugins gram_plugin.py --reward_funcs gram ...

Importing it registers ``gram``. (It must be imported, not named as the plugin itself: ms-swift puts a plugin's folder
first on the path, where this folder's trl.py would hide TRL.) A response that could not be judged is None, which
ms-swift leaves out of its statistics and reports; but in the sum over reward functions it counts None as 0, which
among real scores would be a punishment. So one failure fails its whole group here: equal rewards, hence no advantage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swift.rewards import AsyncORM, orms
from swift.utils import get_logger

from gram_client.adapters.batches import Sample, judged_async
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import grouped, key_of, prompt_of, text_of

logger = get_logger()

REFERENCE_VARIABLE = "GRAM_CLIENT_REFERENCE_COLUMN"


class GramReward(AsyncORM):
    """Responses of one ``prompt_id`` (or equal prompts) are scored against each other; with a column named by
    GRAM_CLIENT_REFERENCE_COLUMN, each against that text. Where the service is stands in the environment variables of
    `gram_client.adapters.judging`; subclass with a `judging` of your own for more."""

    judging = Judging()

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        super().__init__(args, **kwargs)
        self.reference = os.environ.get(REFERENCE_VARIABLE)

    async def __call__(
        self, completions: Sequence[Any], messages: Sequence[Any] = (), **columns: Any
    ) -> list[float | None]:
        """Never raises: what failed is None, and said in ms-swift's log."""
        samples = self._samples(completions, messages, columns)
        judging = self.judging if self.reference is None else replace(self.judging, mode="references")
        rewards = await judged_async(samples, judging)
        values = [reward.value for reward in rewards]
        for members in grouped(f"{sample.group}\0{key_of(sample.prompt)}" for sample in samples).values():
            if any(values[i] is None for i in members):
                for i in members:
                    values[i] = None
        failures = [reward for reward in rewards if not reward.ok]
        if failures:
            lost = values.count(None)
            logger.warning(f"gram: {lost} of {len(values)} responses have no reward: {failures[0].why}")
        return values

    def _samples(self, completions: Sequence[Any], messages: Sequence[Any], columns: dict[str, Any]) -> list[Sample]:
        """Of each row's messages the last one is the completion."""
        groups = columns.get("prompt_id") or [""] * len(completions)
        references = columns.get(self.reference) if self.reference is not None else None
        return [
            Sample(
                prompt_of(list(chat)[:-1]),
                text_of(completion),
                None if references is None else text_of(references[i]),
                str(groups[i]),
            )
            for i, (completion, chat) in enumerate(zip(completions, messages, strict=True))
        ]


orms["gram"] = GramReward
