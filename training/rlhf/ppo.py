"""PPO against a reward service, as GRAM's paper trains with it (arXiv 2506.14175): one file, read from top to bottom.

Objective: E[gamma r(x, y)] - beta KL(policy, old policy), with gamma = 10. r is the judge's P(y better than a reference
response), where the reference is the greedy response of the policy itself (ReMax, arXiv 2310.10505), standardized by
the last 1,000 scores (the service's reward queue). A step: 64 prompts, one response each, 4 epochs of clipped updates
(arXiv 1707.06347) of a policy and of a value model of its own; the first 30 steps move the value model only. The
checkpoint is the one whose greedy responses the judge prefers most over the old policy's on the validation questions.

The paper's rates, 1e-5 for the policy and 5e-6 for the value model, are for 3 to 8 billion parameters; a model of four
million learns at ten times those, in the same ratio. What the paper leaves open is set here: beta 0.05, advantages by
GAE (arXiv 1506.02438) with lambda 0.95 and no discount, standardized over the batch, clipping at 0.2.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gram_client import Client, Normalize, Referenced, ScoringError
from gram_client.adapters.texts import is_visible
from training.generation.outcomes import GenerationError
from training.rlhf.exam import Exam
from training.rlhf.policies import Samples, log_probs, spread, states, write
from training.stages.errors import TrainingDiverged


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults are the paper's where it says. The study of its tricks turns the first four off (docs/rlhf.md)."""

    own_reference: bool = True
    """Compare with the current policy's greedy response, not with the old policy's."""
    window: int | None = 1_000
    """Scores that standardize the rewards; None: rewards are the bare scores."""
    gamma: float = 10.0
    value_only: int = 30
    """First steps that leave the policy as it is."""
    steps: int = 200
    batch: int = 64
    epochs: int = 4
    minibatch: int = 16
    policy_rate: float = 1e-4
    value_rate: float = 5e-5
    beta: float = 0.05
    trace: float = 0.95
    clip: float = 0.2
    """Of the probability ratio; of values, in units of gamma."""
    evaluate_every: int = 20
    minutes: float | None = None
    """The step in which they have passed is the last."""
    seed: int = 0


# --- the mathematics: tensors are [rows, tokens of the response], `mask` is true up to the end of each response -------


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over all tokens of all rows."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all tokens; 0 outside the mask."""
    centred = (values - masked_mean(values, mask)) * mask
    return centred / (masked_mean(centred.square(), mask) + 1e-8).sqrt()


def token_rewards(rewards: Tensor, new: Tensor, old: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Each token pays beta times its log-ratio to the old policy; the last one gets the response's reward [rows]."""
    paid = -beta * (new - old) * mask
    rows = torch.arange(len(mask))
    paid[rows, mask.sum(1) - 1] += rewards
    return paid


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, trace: float) -> tuple[Tensor, Tensor]:
    """Generalized advantages without discount, and the returns that values are taught.

    A_t = d_t + trace A_(t+1), with d_t = r_t + V_(t+1) - V_t, and nothing after the last token.
    """
    values = values * mask
    found = torch.zeros_like(values)
    later = later_value = torch.zeros(len(values))
    for t in reversed(range(values.shape[1])):
        surprise = rewards[:, t] + later_value - values[:, t]
        later = (surprise + trace * later) * mask[:, t]
        later_value = values[:, t]
        found[:, t] = later
    return found, found + values


def policy_loss(new: Tensor, sampled: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped surrogate, and the share of tokens where clipping decided. ``sampled``: log-probs at sampling."""
    ratio = (new - sampled).exp()
    free, held = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(free, held), mask), masked_mean((held > free).float(), mask)


def value_loss(new: Tensor, sampled: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error; a value moves at most ``clip`` from what it was at sampling."""
    held = sampled + (new - sampled).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((new - returns).square(), (held - returns).square()), mask)


class ValueModel(nn.Module):
    """The old policy's transformer with one number for each token; 0 everywhere to begin with."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.body = copy.deepcopy(policy.model)
        self.head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, samples: Samples) -> Tensor:
        """The value of what stands before each token of the response."""
        return spread(self.head(states(self.body, samples))[:, 0], samples.mask)


# --- rollouts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rollout:
    """Responses that the judge scored, with all that an update needs; ``scores`` and ``rewards`` are [rows]."""

    samples: Samples
    log_probs: Tensor
    old_log_probs: Tensor
    values: Tensor
    scores: Tensor
    rewards: Tensor
    failed: float


def score(
    client: Client, rows: Sequence[tuple[str, str, str]], options: Options, queue: str
) -> list[tuple[float, float] | None]:
    """(score, reward) of each (prompt, response, reference); None where there is none: those rows are not trained on.

    All rows are one request, so that they are one entry into the queue. An empty response has nothing to judge.
    """
    asked = [Referenced(*row) if is_visible(row[1]) and is_visible(row[2]) else None for row in rows]
    normalize = None if options.window is None else Normalize(queue, window=options.window, scale=options.gamma)
    sent = [item for item in asked if item is not None]
    found = iter(client.score_references(sent, normalize=normalize).rows if sent else ())
    answers: list[tuple[float, float] | None] = []
    for item in asked:
        row = None if item is None else next(found)
        if row is None or row.score is None or row.reward is None:
            answers.append(None)
        else:  # without a queue the service's reward is the score
            answers.append((row.score, row.reward * (1.0 if normalize else options.gamma)))
    return answers


class Ppo:
    """Policy, value model, old policy, and one optimizer for each of the two that learn."""

    def __init__(self, policy: Any, tokenizer: Any, client: Client, options: Options, queue: str) -> None:
        self.policy, self.tokenizer, self.client, self.options, self.queue = policy, tokenizer, client, options, queue
        self.old = copy.deepcopy(policy).requires_grad_(False)
        self.value = ValueModel(policy)
        how: dict[str, Any] = {"weight_decay": 0.0, "fused": True}
        self.policy_optimizer = torch.optim.AdamW(policy.parameters(), lr=options.policy_rate, **how)
        self.value_optimizer = torch.optim.AdamW(self.value.parameters(), lr=options.value_rate, **how)

    def roll_out(self, prompts: Sequence[str]) -> Rollout:
        """One response to each prompt, judged. Raises `GenerationError` where the service scored none of them."""
        samples, texts = write(self.policy, self.tokenizer, prompts)
        rival = self.policy if self.options.own_reference else self.old
        references = write(rival, self.tokenizer, prompts, greedy=True)[1]
        rows = list(zip(prompts, texts, references, strict=True))
        try:
            answers = score(self.client, rows, self.options, self.queue)
        except ScoringError as error:
            raise GenerationError(f"The judge gave no rewards: {error}") from error
        known = [answer for answer in answers if answer is not None]
        if not known:
            raise GenerationError("The judge scored none of the responses; look at its log.")
        samples = samples.take(torch.tensor([answer is not None for answer in answers]))
        numbers = torch.tensor(known)
        with torch.no_grad():
            now, old, values = log_probs(self.policy, samples), log_probs(self.old, samples), self.value(samples)
        return Rollout(samples, now, old, values, numbers[:, 0], numbers[:, 1], 1 - len(known) / len(answers))

    def update(self, rollout: Rollout, *, value_only: bool) -> dict[str, float]:
        """Epochs of minibatches over one rollout; what they measured, on average."""
        options, mask = self.options, rollout.samples.mask
        paid = token_rewards(rollout.rewards, rollout.log_probs, rollout.old_log_probs, mask, options.beta)
        advantage, returns = advantages(paid, rollout.values, mask, options.trace)
        advantage = whiten(advantage, mask)
        measured: list[tuple[float, float, float]] = []
        for _ in range(options.epochs):
            for rows in torch.randperm(len(mask)).split(options.minibatch):
                part, held = rollout.samples.take(rows), mask[rows]
                limit = options.clip * options.gamma
                error = value_loss(self.value(part), rollout.values[rows], returns[rows], held, limit)
                _descend(error, self.value, self.value_optimizer)
                loss = clipped = torch.zeros(())
                if not value_only:
                    new = log_probs(self.policy, part)
                    loss, clipped = policy_loss(new, rollout.log_probs[rows], advantage[rows], held, options.clip)
                    _descend(loss, self.policy, self.policy_optimizer)
                measured.append((float(error.detach()), float(loss.detach()), float(clipped)))
        columns = [sum(column) / len(measured) for column in zip(*measured, strict=True)]
        return dict(zip(("value_loss", "policy_loss", "clipped"), columns, strict=True))


def _descend(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step, gradient cut to length 1. Raises `TrainingDiverged` before a number that is none reaches weights."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise TrainingDiverged(f"The gradient's length is {float(norm)}; lower the learning rates.")
    optimizer.step()


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Best:
    """The state that did best on validation, and when."""

    step: int
    proxy: float
    weights: dict[str, Tensor]


def run(ppo: Ppo, prompts: Iterator[str], exam: Exam, report: Callable[[dict[str, float]], None]) -> Best:
    """Train; the policy ends as its last step left it, and what is returned is its best state by the judge.

    ``report`` gets a row of figures for each step, with the validation marks in every `evaluate_every`-th and the last.
    """
    torch.manual_seed(ppo.options.seed)
    ends = time.monotonic() + 60 * (ppo.options.minutes or math.inf)
    marks = exam.take(ppo.policy)
    best = Best(0, marks.proxy, _weights(ppo.policy))
    report({"step": 0, **marks.named("validation")})
    for step in range(1, ppo.options.steps + 1):
        start = time.monotonic()
        rollout = ppo.roll_out(list(islice(prompts, ppo.options.batch)))
        figures = ppo.update(rollout, value_only=step <= ppo.options.value_only)
        figures = {"step": step, **_described(rollout), **figures, "seconds": time.monotonic() - start}
        last = step == ppo.options.steps or time.monotonic() > ends
        if step % ppo.options.evaluate_every == 0 or last:
            marks = exam.take(ppo.policy)
            figures |= marks.named("validation")
            if marks.proxy > best.proxy:
                best = Best(step, marks.proxy, _weights(ppo.policy))
        report(figures)
        if last:
            break
    return best


def _described(rollout: Rollout) -> dict[str, float]:
    """Of the responses before the update; ``kl`` in nats a response, from the old policy."""
    return {
        "score": float(rollout.scores.mean()),
        "reward": float(rollout.rewards.mean()),
        "reward_std": float(rollout.rewards.std(correction=0)),
        "kl": float((rollout.log_probs - rollout.old_log_probs).sum(1).mean()),
        "tokens": float(rollout.samples.mask.sum(1).float().mean()),
        "failed": rollout.failed,
    }


def _weights(policy: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in policy.state_dict().items()}
