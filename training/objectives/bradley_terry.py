"""Discriminative baselines: one reward a response, P(chosen better) = sigma(r_c - r_r) (Bradley and Terry, 1952).

With D = r_c - r_r, elementwise over pairs:

    plain       L = -log sigma(D)
    margin m    L = -log sigma(D - m)                        (Llama 2, arXiv 2307.09288, section 3.2.2)
    smoothed    L = -log sigma(D) + alpha D                  (the label is wrong with probability alpha)
    centred     L + c (r_c + r_r)^2                          (arXiv 2312.09244: keeps rewards near zero)

The smoothed loss has its minimum at D* = log((1 - alpha)/alpha), as in `training.objectives.preference`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_losses(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None, smoothing: float = 0.0, centering: float = 0.0
) -> Tensor:
    """Loss of each pair [B], from rewards [B]. ``margin`` [B] is in the reward's own unit (nats); None is no margin."""
    gap = chosen - rejected if margin is None else chosen - rejected - margin
    losses = -logsigmoid(gap) + smoothing * gap
    return losses + centering * (chosen + rejected).square()
