"""A causal language model that is read where a judge is read, and computes nothing else.

A stage-2 row needs two logits at one position. The usual forward multiplies every position by the whole vocabulary:
2,048 x 152,000 numbers for a Qwen3 row, of which two are used. `make_readable` gives a model's forward one more
argument, ``wanted``: the backbone runs as ever, and the output matrix is applied to the wanted positions, or to two of
its rows.

The forward of the model itself is extended, so whatever wraps a model (DDP, FSDP2, DeepSpeed, PEFT, autocast,
generation) goes on working; the output matrix is still reached through its own module, whose hooks gather its shards.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from training.data.pairs import DataError
from training.objectives.language_model import token_losses
from training.stages.shared_prefix import hidden_after_prefix

CHUNK = 1024
"""Positions whose full-vocabulary logits exist at the same time (1024 x 152,000 in float32: 0.6 GB)."""

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


class Wanted(NamedTuple):
    """Positions of a batch, and what is wanted there.

    ``rows`` and ``columns`` [n] index the batch's sequences and positions. ``tokens`` [k]: the logits of these tokens,
    [n, k]; None: of the whole vocabulary, [n, V]. ``targets`` [n]: instead of logits, -log p of these tokens, [n].
    """

    rows: Tensor
    columns: Tensor
    tokens: Tensor | None = None
    targets: Tensor | None = None


class ReadableHead(nn.Linear):
    """An output matrix that can be applied in part, or straight into a loss."""

    def forward(self, hidden: Tensor, tokens: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
        """``hidden`` [..., D]; see `Wanted` for what comes out."""
        if targets is not None:
            return self._losses(hidden, targets)
        if tokens is None:
            return linear(hidden, self.weight, self.bias)
        return linear(hidden, self.weight[tokens], None if self.bias is None else self.bias[tokens])

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """In chunks whose logits are computed again in the backward pass: memory of one chunk, not of all positions."""
        parts = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
        return torch.cat([checkpoint(self._chunk, h, t, use_reentrant=False) for h, t in parts])

    def _chunk(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return token_losses(linear(hidden, self.weight, self.bias), targets)


def make_readable(model: PreTrainedModel) -> None:
    """Extend the model's forward by ``wanted`` (and ``prefix``, see `shared_prefix`), in place.

    Then ``model(input_ids=..., attention_mask=..., wanted=[...])`` returns a tuple, one tensor for each `Wanted`.
    Raises `DataError` for models whose logits are more than the output matrix's products.
    """
    changed = [name for name in _LOGIT_CHANGES if getattr(model.config, name, None) not in (None, 1, 1.0)]
    head = model.get_output_embeddings()
    if changed or not isinstance(head, nn.Linear):
        raise DataError(f"{type(model).__name__} changes its logits ({', '.join(changed)}); use another backbone.")
    readable = ReadableHead(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
    readable.weight, readable.bias = head.weight, head.bias
    model.set_output_embeddings(readable)
    usual = model.forward

    def forward(
        self: PreTrainedModel,
        *args: Any,
        wanted: list[Wanted] | None = None,
        prefix: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        if wanted is None:
            return usual(*args, **inputs)
        if prefix is not None:
            hidden = hidden_after_prefix(self, prefix, inputs["input_ids"])
        else:
            hidden = self.base_model(*args, **inputs, use_cache=False).last_hidden_state
        output = self.get_output_embeddings()
        return tuple(output(hidden[w.rows, w.columns], w.tokens, w.targets) for w in wanted)

    model.forward = MethodType(forward, model)
