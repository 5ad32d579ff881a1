"""Bradley-Terry and its relatives, against their formulas and against PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from training.objectives.bradley_terry import bradley_terry_losses


def _rewards() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 8, generator=generator, dtype=torch.float64).unbind()


def test_plain_loss_is_the_logistic_loss_of_the_gap() -> None:
    chosen, rejected = _rewards()
    losses = bradley_terry_losses(chosen, rejected)
    torch.testing.assert_close(losses, -torch.sigmoid(chosen - rejected).log())


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.2])
def test_smoothing_is_cross_entropy_with_soft_targets(alpha: float) -> None:
    chosen, rejected = _rewards()
    losses = bradley_terry_losses(chosen, rejected, smoothing=alpha)
    target = torch.full_like(chosen, 1 - alpha)
    torch.testing.assert_close(losses, binary_cross_entropy_with_logits(chosen - rejected, target, reduction="none"))


def test_margin_asks_for_a_larger_gap() -> None:
    chosen, rejected = _rewards()
    margin = torch.full_like(chosen, 1.5)
    torch.testing.assert_close(
        bradley_terry_losses(chosen, rejected, margin=margin), bradley_terry_losses(chosen - 1.5, rejected)
    )


def test_centering_moves_the_sum_and_not_the_gap() -> None:
    rewards = torch.tensor([[4.0], [3.0]], requires_grad=True)
    bradley_terry_losses(rewards[0], rewards[1], centering=0.1).sum().backward()
    plain = torch.tensor([[4.0], [3.0]], requires_grad=True)
    bradley_terry_losses(plain[0], plain[1]).sum().backward()
    assert rewards.grad is not None and plain.grad is not None
    added = rewards.grad - plain.grad
    torch.testing.assert_close(added, torch.full_like(added, 2 * 0.1 * 7.0))


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_gradient_descent_arrives_at_the_capped_gap(alpha: float) -> None:
    rewards = torch.zeros(2, 1, requires_grad=True)
    optimizer = torch.optim.SGD([rewards], lr=4.0)
    for _ in range(200):
        optimizer.zero_grad()
        bradley_terry_losses(rewards[0], rewards[1], smoothing=alpha).sum().backward()
        optimizer.step()
    assert (rewards[0] - rewards[1]).item() == pytest.approx(math.log((1 - alpha) / alpha), abs=0.05)
