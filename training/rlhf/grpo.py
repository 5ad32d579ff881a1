"""TRL's GRPO (arXiv 2402.03300) with the service's reward: the trainer is the library's, the reward one import.

Groups: eight responses to a prompt are scored against each other in one request. Cohorts: each response is sent as a
member of its group and the service puts the group together, which is how processes that hold parts of a group are
served (`gram_client.adapters.trl`, ``group_size``).
"""

from __future__ import annotations

import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from transformers import TrainerCallback

from gram_client.adapters.trl import reward_func
from training.rlhf.exam import Exam
from training.rlhf.policies import MAX_TOKENS
from training.rlhf.ppo import Best

with warnings.catch_warnings():  # TRL 1.16 knows vLLM up to 0.31 and says so to everyone; policies here do not use it
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM")
    from trl import GRPOConfig, GRPOTrainer

NAMES = {
    "rewards/gram/mean": "score",
    "reward_std": "reward_std",
    "kl": "kl_token",
    "completions/mean_length": "tokens",
    "gram/failure_rate": "failed",
    "step_time": "seconds",
}
"""TRL's names of figures, and ours; its KL is a token's, ours (``kl``) a response's."""


@dataclass(frozen=True, slots=True)
class Options:
    """A step is ``prompts`` groups of ``group`` responses. The defaults end before the policy over-optimises the demo
    judge, which it did from step 40 to 60 on (docs/rlhf.md)."""

    mode: Literal["group", "cohort"] = "group"
    steps: int = 60
    prompts: int = 8
    group: int = 8
    rate: float = 5e-4
    beta: float = 0.3
    evaluate_every: int = 20
    minutes: float | None = None
    """The step in which they have passed is the last."""
    seed: int = 0


def run(
    policy: Any,
    tokenizer: Any,
    url: str,
    options: Options,
    prompts: Iterator[str],
    exam: Exam,
    report: Callable[[dict[str, float]], None],
    directory: Path,
) -> Best:
    """Train ``policy`` in place; returns its best state by the judge. ``directory`` is where TRL may write."""
    asked = [
        {"prompt": [{"role": "user", "content": text}]} for text in islice(prompts, options.steps * options.prompts)
    ]
    watcher = Watcher(exam, options, report)
    watcher.look(0, policy, {})
    group_size = options.group if options.mode == "cohort" else None
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=[reward_func(url, group_size=group_size, run_id=uuid.uuid4().hex)],
        args=_arguments(options, directory),
        train_dataset=Dataset.from_list(asked),
        processing_class=tokenizer,
        callbacks=[watcher],
    )
    trainer.train()
    policy.eval()
    assert watcher.best is not None
    return watcher.best


class Watcher(TrainerCallback):
    """Tells TRL's figures step by step, marks the policy now and then, and keeps its best state."""

    def __init__(self, exam: Exam, options: Options, report: Callable[[dict[str, float]], None]) -> None:
        self._exam, self._options, self._report = exam, options, report
        self._ends = time.monotonic() + 60 * (options.minutes or math.inf)
        self.best: Best | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], model: Any, **_: Any) -> None:
        if "loss" in logs:  # the summary at the end has none
            control.should_training_stop |= time.monotonic() > self._ends
            figures = {ours: float(logs[theirs]) for theirs, ours in NAMES.items() if theirs in logs}
            self.look(state.global_step, model, figures, last=control.should_training_stop)

    def look(self, step: int, policy: Any, figures: dict[str, float], *, last: bool = False) -> None:
        """One step's row, with marks where they are due."""
        if step % self._options.evaluate_every == 0 or step == self._options.steps or last:
            was_training = policy.training
            marks = self._exam.take(policy.eval())
            policy.train(was_training)
            figures = figures | marks.named("validation")
            if self.best is None or marks.proxy > self.best.proxy:
                weights: dict[str, Tensor] = {name: t.detach().clone() for name, t in policy.state_dict().items()}
                self.best = Best(step, marks.proxy, weights)
        self._report({"step": step, **figures})


def _arguments(options: Options, directory: Path) -> Any:
    return GRPOConfig(
        output_dir=str(directory),
        max_steps=options.steps,
        per_device_train_batch_size=options.prompts * options.group,
        num_generations=options.group,
        max_completion_length=MAX_TOKENS,
        temperature=1.0,
        learning_rate=options.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, options.steps // 2),
        weight_decay=0.0,
        beta=options.beta,
        shuffle_dataset=False,
        bf16=False,
        gradient_checkpointing=False,  # TRL's default saves memory, of which a small policy has enough, and costs time
        use_cpu=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=options.seed,
    )
