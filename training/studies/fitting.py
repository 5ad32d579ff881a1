"""Training a small judge: the objectives of `training.objectives`, one optimizer and one schedule for every arm.

The stages of `training.stages` read files, tokenizers and chat templates, save checkpoints and resume; a study makes
hundreds of runs of a minute each. What it compares is in the objectives, which are shared.

Muon (arXiv 2502.16982) for the layers' matrices, AdamW for the rest, as for the demo judge. Warm-up over 20 steps,
constant to the middle, then linear decay to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.objectives.bradley_terry import bradley_terry_losses
from training.objectives.language_model import language_model_loss
from training.objectives.preference import smoothed_ranking_loss
from training.objectives.text_regularizer import regularized, text_losses
from training.studies.judges import Judge, ScalarJudge, prompt_ids, response_ids, stage_one_rows
from training.studies.tasks import PairSet, Source, draw

MATRIX_RATE, VECTOR_RATE, WEIGHT_DECAY = 0.02, 2e-3, 0.1
WARM_UP = 20


class Plan(BaseModel):
    """Length of a run. ``rate`` scales both learning rates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    rate: float = Field(default=1.0, gt=0.0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of ``B`` pairs as labelled: prompt [B, N + 2], responses [B, N + 1]; gap [B], wrong positions apart."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    gap: Tensor

    @classmethod
    def of(cls, pairs: PairSet) -> Batch:
        return cls(
            prompt_ids(pairs.task, pairs.prompt),
            response_ids(pairs.chosen),
            response_ids(pairs.rejected),
            torch.from_numpy(pairs.gap),
        )

    def take(self, rows: Tensor) -> Batch:
        return Batch(self.prompt[rows], self.chosen[rows], self.rejected[rows], self.gap[rows])

    def shown(self, chosen_first: Tensor) -> tuple[Tensor, Tensor]:
        """The two responses in display order; ``chosen_first`` [B]."""
        swap = ~chosen_first[:, None]
        return torch.where(swap, self.rejected, self.chosen), torch.where(swap, self.chosen, self.rejected)


Objective = Callable[[Judge, Batch, Tensor], Tensor]
"""(judge, batch, chosen shown first [B]) -> loss, a scalar."""


def smoothed_preference(alpha: float) -> Objective:
    """GRAM's stage 2: -log sigma(D) + alpha D, each pair in one random order."""

    def loss(judge: Judge, batch: Batch, chosen_first: Tensor) -> Tensor:
        sign = torch.where(chosen_first, 1.0, -1.0)
        return smoothed_ranking_loss(sign * judge.log_odds(batch.prompt, *batch.shown(chosen_first)), alpha).mean()

    return loss


def reward_difference(alpha: float = 0.0, margin: float = 0.0, text_weight: float = 0.0) -> Objective:
    """Discriminative baselines: Bradley-Terry, smoothed, with a margin (nats an error), with GRM's "sft" text loss."""

    def loss(judge: Judge, batch: Batch, chosen_first: Tensor) -> Tensor:
        assert isinstance(judge, ScalarJudge)
        rewards, log_p = judge.rewards(batch.prompt, batch.chosen, batch.rejected)
        distance = margin * batch.gap if margin else None
        ranking = bradley_terry_losses(rewards[0], rewards[1], margin=distance, smoothing=alpha).mean()
        if not text_weight:
            return ranking
        return regularized(ranking, text_losses("sft", log_p[0], log_p[1], beta=0.1).mean(), text_weight)

    return loss


def stage_one(judge: Judge, batch: Batch, chosen_first: Tensor) -> Tensor:
    """GRAM's stage 1: both responses as text, given the prompt; no label is used."""
    ids, at = stage_one_rows(batch.prompt, *batch.shown(chosen_first))
    hidden = judge.hidden(ids)[:, at - 1]
    return language_model_loss(judge.logits(hidden).flatten(0, 1), ids[:, at].flatten())


def fit(
    judge: Judge, batches: Iterator[Batch], plan: Plan, objective: Objective, trained: nn.Module, seed: int
) -> float:
    """Train ``trained`` (the judge or a part of it) for the plan's steps; returns the mean loss of the last tenth."""
    order = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        batch = next(batches)
        return objective(judge, batch, torch.rand(len(batch.gap), generator=order) < 0.5)

    return descend(judge, plan, trained, loss)


def descend(model: nn.Module, plan: Plan, trained: nn.Module, next_loss: Callable[[], Tensor]) -> float:
    """The plan's steps, each on the loss of the next batch; returns the mean loss of the last tenth."""
    model.train()
    parameters = list(trained.parameters())
    optimizers, schedules = optimizers_of(trained, plan)
    losses: list[float] = []
    for _ in range(plan.steps):
        loss = next_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    last = losses[-max(1, plan.steps // 10) :]
    return sum(last) / len(last)


def epochs_of(pairs: PairSet, batch: int, seed: int) -> Iterator[Batch]:
    """Batches of a fixed set without end."""
    everything = Batch.of(pairs)
    return (everything.take(rows) for rows in rows_of_epochs(len(pairs), batch, seed))


def rows_of_epochs(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Row numbers [batch] without end, reshuffled each epoch; a last short batch is filled from the next epoch."""
    rng, rows = np.random.default_rng(seed), np.zeros(0, np.int64)
    while True:
        while len(rows) < batch:
            rows = np.concatenate([rows, rng.permutation(count)])
        yield torch.from_numpy(rows[:batch])
        rows = rows[batch:]


def fresh(source: Source, batch: int, seed: int, *, foreign_prompts: bool = False) -> Iterator[Batch]:
    """Batches that never repeat: unlabelled pairs cost nothing. ``foreign_prompts``: of responses to other prompts."""
    rng = np.random.default_rng(seed)
    while True:
        pairs = draw(source, batch, rng)
        yield Batch.of(pairs.with_foreign_prompts(rng) if foreign_prompts else pairs)


def optimizers_of(
    trained: nn.Module, plan: Plan
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for the layers' matrices and AdamW for the rest, each with its schedule."""
    named = list(trained.named_parameters())
    matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
    others = [p for name, p in named if not (".layers." in name and p.ndim == 2)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=VECTOR_RATE * plan.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    ]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=MATRIX_RATE * plan.rate, weight_decay=WEIGHT_DECAY))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * min(1.0, 2 * (plan.steps - step) / plan.steps)

    return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
