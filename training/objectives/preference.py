"""GRAM's second stage: two-label cross-entropy with label smoothing (arXiv 2506.14175, section 3.3).

With D the logit of the right label minus that of the wrong one, and alpha the target mass of the wrong label,

    L = -(1 - alpha) log sigma(D) - alpha log sigma(-D) = -log sigma(D) + alpha D

which is the Bradley-Terry ranking loss plus a linear penalty on the margin. Its minimum is D* = log((1 - alpha)/alpha):
confidence is capped at 1 - alpha. PyTorch's ``label_smoothing`` epsilon spreads over both classes: epsilon = 2 alpha.

The cross-entropy sees two columns of the vocabulary only, so nothing in it keeps p(A) + p(B) near one; a small
full-vocabulary term, -log(p(A) + p(B)), does.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid


def right_margin(pair: Tensor, label: Tensor) -> Tensor:
    """D [rows]: logit of the right label minus the other's. ``pair`` [rows, 2]; ``label`` [rows], 0 for A, 1 for B."""
    right = pair.gather(1, label[:, None]).squeeze(1)
    return 2 * right - pair.sum(-1)


def log_label_mass(logits: Tensor, label_ids: Tensor) -> Tensor:
    """log(p(A) + p(B)) over the whole vocabulary [rows], of ``logits`` [rows, vocabulary]."""
    return logits[:, label_ids].logsumexp(-1) - logits.logsumexp(-1)


def smoothed_ranking_loss(margin: Tensor, smoothing: float) -> Tensor:
    """-log sigma(D) + alpha D, elementwise; ``margin`` [...] is D, ``smoothing`` is alpha in [0, 0.5)."""
    return -logsigmoid(margin) + smoothing * margin


def best_margin(smoothing: float) -> float:
    """D* = log((1 - alpha)/alpha), the margin that minimises the smoothed loss."""
    return math.log((1.0 - smoothing) / smoothing)
