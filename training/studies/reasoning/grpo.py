"""Reinforcement with verifiable rewards (RM-R1, arXiv 2505.02387, section 3.3): GRPO in the size of these judges.

The objective is DeepSeekMath's (arXiv 2402.03300, equation 3), with the k3 estimate of the distance to where training
began; its settings are RM-R1's but for the number of samples a prompt and the learning rate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.studies.fitting import Plan, optimizers_of
from training.studies.reasoning.rationales import PAD, Cases, Floats, verdicts
from training.studies.reasoning.writers import Rows, Writer, noise_for, write


class Reinforcement(BaseModel):
    """A run of GRPO."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    prompts: int = 32
    """A step's, each once: a run uses up ``steps`` x ``prompts`` labels."""
    group: int = 8
    """Rationales a prompt (RM-R1: 7)."""
    parts: int = 2
    """Updates a step, each on its share of the prompts: from the second on, the ratio is clipped."""
    rate: float = 0.03
    """Relative to the first learning rates. In 40 steps of one seed a judge got worse at 0.1, better at 0.03."""
    clip: float = 0.2
    beta: float = 1e-3
    look_every: int = 25
    """Steps between validations."""

    @property
    def labels(self) -> int:
        return self.steps * self.prompts

    @property
    def looks(self) -> tuple[int, ...]:
        """The steps after which a validation is made; the last step is one."""
        return tuple(sorted({*range(self.look_every, self.steps + 1, self.look_every), self.steps}))


def advantages(rewards: Floats) -> Floats:
    """Rewards [prompts, group] in standard deviations from their group's mean; 0 where all are alike."""
    spread = rewards.std(axis=1, keepdims=True)
    scaled: Floats = (rewards - rewards.mean(axis=1, keepdims=True)) / (spread + 1e-6)
    return scaled


def grpo_loss(
    log_p: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, said: Tensor, *, clip: float, beta: float
) -> Tensor:
    """Scalar. log-probabilities [B, T] now, when sampled, where training began; ``advantage`` [B]; ``said`` [B, T].

    Mean over each text's tokens, then over texts, of -min(r A, clip(r) A) + beta k3, with r = p / p_old.
    """
    ratio = (log_p - old).exp()
    gain = advantage[:, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    apart = reference - log_p
    k3 = apart.exp() - apart - 1
    tokens = said.sum(1).clamp(min=1)
    return (((beta * k3 - surrogate) * said).sum(1) / tokens).mean()


@dataclass(frozen=True, slots=True)
class Look:
    """A validation: after so many steps, the validation accuracy; the mean reward since the last one."""

    step: int
    accuracy: float
    reward: float


def reinforce(
    writer: Writer,
    cases: Cases,
    plan: Reinforcement,
    seed: int,
    validate: Callable[[Writer], float],
    watch: Callable[[int, Writer], None] = lambda step, writer: None,
) -> tuple[list[Look], dict[str, Tensor]]:
    """Train on the labels of ``cases`` [steps x prompts], reward +1 for the right verdict and -1 for anything else.

    Returns the validations and the weights of the best (the first of equals); ``writer`` is left as the last step made
    it. Beginning counts: training may make nothing better. ``watch`` is called at each validation.
    """
    reference = copy.deepcopy(writer).eval()
    optimizers, schedules = optimizers_of(writer, Plan(steps=plan.steps * plan.parts, batch=1, rate=plan.rate))
    looks, rewards = [Look(0, validate(writer), 0.0)], [0.0]
    best, weights = looks[0].accuracy, copy.deepcopy(writer.state_dict())
    for step in range(plan.steps):
        batch = cases.take(slice(step * plan.prompts, (step + 1) * plan.prompts))
        rows, old, gains, reward = _rollout(writer, batch, plan, seed, step)
        rewards.append(reward)
        for part in torch.arange(len(rows)).chunk(plan.parts):
            _update(writer, reference, rows.take(part), old[part], gains[part], plan)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            writer.zero_grad(set_to_none=True)
        if step + 1 in plan.looks:
            looks.append(Look(step + 1, validate(writer), float(np.mean(rewards[-plan.look_every :]))))
            watch(step + 1, writer)
            if looks[-1].accuracy > best:
                best, weights = looks[-1].accuracy, copy.deepcopy(writer.state_dict())
    return looks, weights


def _rollout(
    writer: Writer, batch: Cases, plan: Reinforcement, seed: int, step: int
) -> tuple[Rows, Tensor, Tensor, float]:
    """A group of texts for each prompt, a prompt's texts together: rows, old log p, advantages [B], mean reward."""
    each = batch.take(np.repeat(np.arange(len(batch)), plan.group))
    tokens = batch.text.shape[1]
    written = write(writer, each.prompt, tokens, noise_for(len(each), tokens, "grpo", seed, step))
    rewards = np.where(verdicts(written.text) == each.label, 1.0, -1.0)
    gains = advantages(rewards.reshape(-1, plan.group)).reshape(-1)
    rows = Rows.of(each.prompt, written.text)
    return rows, torch.from_numpy(written.log_p).float(), torch.from_numpy(gains).float(), float(rewards.mean())


def _update(writer: Writer, reference: Writer, rows: Rows, old: Tensor, gains: Tensor, plan: Reinforcement) -> None:
    """Gradients of one part."""
    with torch.no_grad():
        anchor = reference.log_p(rows.prompt, rows.text)
    log_p = writer.log_p(rows.prompt, rows.text)
    said = (rows.text != PAD).float()
    grpo_loss(log_p, old, anchor, gains, said, clip=plan.clip, beta=plan.beta).backward()
    nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
