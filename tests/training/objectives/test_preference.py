"""The smoothed two-label loss: its identities, its minimum, PyTorch's convention, and what holds label mass."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from training.objectives.preference import (
    best_margin,
    log_label_mass,
    right_margin,
    smoothed_ranking_loss,
)

LABEL_IDS = torch.tensor([3, 5])


def _batch(rows: int = 16, vocabulary: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return (
        torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64),
        torch.randint(0, 2, (rows,), generator=generator),
    )


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_smoothed_cross_entropy_is_ranking_loss_plus_linear_penalty(alpha: float) -> None:
    logits, label = _batch()
    pair = logits[:, LABEL_IDS]
    log_p = pair.log_softmax(-1)
    right, wrong = log_p[torch.arange(len(label)), label], log_p[torch.arange(len(label)), 1 - label]
    cross = -(1 - alpha) * right - alpha * wrong
    torch.testing.assert_close(smoothed_ranking_loss(right_margin(pair, label), alpha), cross)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_pytorch_epsilon_is_twice_alpha(alpha: float) -> None:
    logits, label = _batch()
    pair = logits[:, LABEL_IDS]
    ours = smoothed_ranking_loss(right_margin(pair, label), alpha).mean()
    theirs = cross_entropy(pair, label, label_smoothing=2 * alpha)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_minimum_is_at_the_capped_confidence(alpha: float) -> None:
    margin = torch.tensor(best_margin(alpha), dtype=torch.float64, requires_grad=True)
    smoothed_ranking_loss(margin, alpha).backward()
    assert margin.grad is not None
    assert abs(margin.grad.item()) < 1e-12
    assert torch.sigmoid(margin).item() == pytest.approx(1 - alpha)
    assert best_margin(alpha) == pytest.approx(math.log((1 - alpha) / alpha))


def test_label_mass_term_is_the_only_force_on_other_tokens() -> None:
    logits, label = _batch()
    others = [i for i in range(logits.shape[1]) if i not in LABEL_IDS.tolist()]
    for weight, expected in ((0.0, False), (0.1, True)):
        leaf = logits.clone().requires_grad_()
        ranking = smoothed_ranking_loss(right_margin(leaf[:, LABEL_IDS], label), 0.02)
        (ranking - weight * log_label_mass(leaf, LABEL_IDS)).mean().backward()
        assert leaf.grad is not None
        assert bool((leaf.grad[:, others] > 0).all()) is expected


def test_the_label_mass_is_the_softmax_of_both_labels() -> None:
    logits, _ = _batch()
    expected = logits.softmax(-1)[:, LABEL_IDS].sum(-1)
    torch.testing.assert_close(log_label_mass(logits, LABEL_IDS).exp(), expected)


@pytest.mark.parametrize("alpha", [0.025, 0.05, 0.1])
def test_gradient_descent_arrives_at_the_best_margin(alpha: float) -> None:
    """From no preference at all, by the two logits of a label, within 0.05 nats."""
    pair = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.SGD([pair], lr=4.0)
    for _ in range(200):
        optimizer.zero_grad()
        smoothed_ranking_loss(right_margin(pair, torch.tensor([1])), alpha).sum().backward()
        optimizer.step()
    assert right_margin(pair, torch.tensor([1])).item() == pytest.approx(math.log((1 - alpha) / alpha), abs=0.05)


def test_without_smoothing_it_is_the_ranking_loss_and_the_margin_grows_without_end() -> None:
    margin = torch.tensor([0.0, 5.0, 50.0], requires_grad=True)
    losses = smoothed_ranking_loss(margin, 0.0)
    torch.testing.assert_close(losses, torch.log1p(torch.exp(-margin)))
    losses.sum().backward()
    assert margin.grad is not None
    assert bool((margin.grad[:2] < 0).all())
