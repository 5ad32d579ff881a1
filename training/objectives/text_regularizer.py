"""GRM (arXiv 2406.10216): a reward head shares its backbone with a language-model head that must go on writing.

    L = (1 - w) L_reward + w L_text                          (w = 0.01, beta = 0.1 in the paper)

    sft         L_text = -log sigma(beta log p(y_c | x))
    dpo_noref   L_text = -log sigma(beta (log p(y_c | x) - log p(y_r | x)))
    dpo         the same with log p - log p_ref in place of log p

log p of a response is the sum over its tokens. Hidden states that can still write the response keep what a head alone
would forget; that is what makes such reward models generalise.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid


def text_losses(
    kind: Literal["sft", "dpo", "dpo_noref"],
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    reference: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Loss of each pair [B]; ``chosen`` and ``rejected`` [B] are log-probabilities of the responses.

    ``reference``: the same two by the model that training began from. Raises `ValueError` when "dpo" lacks it.
    """
    if kind == "sft":
        return -logsigmoid(beta * chosen)
    if kind == "dpo_noref":
        return -logsigmoid(beta * (chosen - rejected))
    if reference is None:
        raise ValueError("dpo needs the reference model's log-probabilities; dpo_noref does not.")
    return -logsigmoid(beta * ((chosen - reference[0]) - (rejected - reference[1])))


def regularized(reward_loss: Tensor, text_loss: Tensor, weight: float) -> Tensor:
    """(1 - w) L_reward + w L_text."""
    return (1.0 - weight) * reward_loss + weight * text_loss
