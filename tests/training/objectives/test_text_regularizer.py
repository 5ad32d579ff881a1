"""GRM's three regularisers, by hand on numbers small enough to check."""

from __future__ import annotations

import math

import pytest
import torch

from training.objectives.text_regularizer import regularized, text_losses

CHOSEN, REJECTED = torch.tensor([-2.0, -30.0]), torch.tensor([-6.0, -10.0])


def _minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_sft_looks_at_the_chosen_response_only() -> None:
    losses = text_losses("sft", CHOSEN, REJECTED, beta=0.1)
    assert losses.tolist() == pytest.approx([_minus_log_sigmoid(-0.2), _minus_log_sigmoid(-3.0)])


def test_dpo_without_reference_compares_both() -> None:
    losses = text_losses("dpo_noref", CHOSEN, REJECTED, beta=0.1)
    assert losses.tolist() == pytest.approx([_minus_log_sigmoid(0.4), _minus_log_sigmoid(-2.0)])


def test_dpo_measures_the_change_since_the_reference() -> None:
    losses = text_losses("dpo", CHOSEN, REJECTED, beta=0.1, reference=(CHOSEN, REJECTED))
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    with pytest.raises(ValueError, match="dpo_noref"):
        text_losses("dpo", CHOSEN, REJECTED, beta=0.1)


def test_the_weights_sum_to_one() -> None:
    assert regularized(torch.tensor(1.0), torch.tensor(1.0), 0.01).item() == pytest.approx(1.0)
    assert regularized(torch.tensor(2.0), torch.tensor(0.0), 0.25).item() == pytest.approx(1.5)
