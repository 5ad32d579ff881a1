"""Next-token losses. GRAM's first stage (arXiv 2506.14175, section 3.2) writes both responses, given the prompt:

    L = -E log p([y_a, y_b] | x) = -sum_t log p(w_t | x, w_<t),   w = the tokens of y_a, then those of y_b

No label is used. The second response is conditioned on the first as well, which is what teaches to compare two. A
batch's loss is the mean over all its response tokens, not a mean of row means: a token weighs the same in every row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each of ``targets`` [tokens] under ``logits`` [tokens, vocabulary], in float32."""
    return cross_entropy(logits.float(), targets, reduction="none")


def language_model_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of `token_losses`; 0 for no tokens."""
    if targets.numel() == 0:
        return torch.zeros((), device=logits.device)
    return token_losses(logits, targets).mean()
