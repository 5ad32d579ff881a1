"""TRL 1.0, the last with judges: its OnlineDPO on a random policy, asking the service which of two is better."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from gram_client.adapters.trl_judge import GramPairwiseJudge
from tests.support.bad_days import Served, Weather, patience_s
from tests.support.tiny_policy import rows, tiny_policy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl.experimental.judges import BasePairwiseJudge
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

Start = Callable[[Weather], Served]


class Seen(GramPairwiseJudge):
    answers: list[int]

    def judge(self, *args: object, **kwargs: object) -> list[int]:
        self.answers = super().judge(*args, **kwargs)  # type: ignore[assignment, arg-type]
        return self.answers


@pytest.mark.parametrize("weather", ["healthy", "overloaded", "killed"])
@pytest.mark.parametrize("chat", [False, True])
def test_online_dpo(service: Start, tmp_path: Path, weather: Weather, chat: bool) -> None:
    judge = Seen(service(weather).url, timeout_s=patience_s(weather))
    assert isinstance(judge, BasePairwiseJudge)
    model, tokenizer = tiny_policy()
    reference, _ = tiny_policy()
    args = OnlineDPOConfig(
        tmp_path,
        max_new_tokens=8,
        per_device_train_batch_size=2,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    dataset = rows(chat=chat)
    trainer = OnlineDPOTrainer(
        model, reference, judge=judge, args=args, train_dataset=dataset, processing_class=tokenizer
    )
    trainer.train()
    assert len(judge.answers) == 2
    assert set(judge.answers) <= ({0, 1, -1} if weather == "healthy" else {-1})
