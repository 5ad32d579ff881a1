"""The first stage's loss: the log-probability of a sequence, each token once and weighing the same."""

from __future__ import annotations

import pytest
import torch

from training.objectives.language_model import language_model_loss, token_losses


def test_token_losses_are_negative_log_probabilities() -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(7)
    expected = -torch.softmax(logits, -1)[torch.arange(7), targets].log()
    torch.testing.assert_close(token_losses(logits, targets), expected)
    assert language_model_loss(logits, targets).item() == pytest.approx(expected.mean().item())


def test_a_sequence_of_two_responses_is_the_product_of_conditionals() -> None:
    """-log p(y_a, y_b | x) = -log p(y_a | x) - log p(y_b | x, y_a), in a model whose probabilities are a table."""
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(2)).log_softmax(-1)  # log p(next | current)
    x, y_a, y_b = [0], [3, 1], [4, 2, 2]
    tokens = torch.tensor([*x, *y_a, *y_b])
    loss = token_losses(table[tokens[:-1]], tokens[1:]).sum()
    first = table[0, 3] + table[3, 1]
    second = table[1, 4] + table[4, 2] + table[2, 2]
    assert loss.item() == pytest.approx(-(first + second).item())


def test_no_tokens_is_zero() -> None:
    assert language_model_loss(torch.zeros(0, 11), torch.zeros(0, dtype=torch.long)).item() == 0.0
