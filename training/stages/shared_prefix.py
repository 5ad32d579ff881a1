"""A batch whose rows all begin with the same tokens: run those once, with gradient, then the rows' own tokens.

Exact, not an approximation: attention is causal, so the prefix's keys and values do not depend on what follows, and a
row's padding comes after everything that is read from it. A judge's instruction is longer than a small pair, so a step
becomes several times cheaper.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen3ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "shared_prefix"


def hidden_after_prefix(model: Qwen3ForCausalLM, prefix: Tensor, suffixes: Tensor) -> Tensor:
    """Final hidden states [rows, suffix, width]; ``prefix`` is [tokens], ``suffixes`` [rows, suffix], right-padded."""
    cache = DynamicCache(config=model.config)
    model.model(input_ids=prefix[None], past_key_values=cache, use_cache=True)
    positions = torch.arange(prefix.numel(), prefix.numel() + suffixes.shape[1])[None]
    causal = torch.ones(suffixes.shape[1], suffixes.shape[1], dtype=torch.bool).tril()
    usual = model.config._attn_implementation
    model.config._attn_implementation = _NAME
    try:
        output = model.model(
            input_ids=suffixes,
            position_ids=positions,
            attention_mask=causal[None, None],
            use_cache=False,
            prefix_cache=cache,
        )
    finally:
        model.config._attn_implementation = usual
    hidden: Tensor = output.last_hidden_state
    return hidden


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    prefix_cache: DynamicCache,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each row over the one prefix and its own tokens, as matrix products that never copy the prefix.

    ``query`` is [rows, heads, suffix, d], ``key`` and ``value`` [rows, groups, suffix, d], the cache's the same
    for one row. Returns [rows, suffix, heads, d].
    """
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    layer = prefix_cache.layers[module.layer_idx]
    kind = value.dtype
    with torch.autocast("cpu", enabled=False):
        prefix_key, prefix_value = layer.keys[0].to(kind), layer.values[0].to(kind)
        query = (query * scaling).to(kind).reshape(rows, groups, heads // groups * length, width).transpose(0, 1)
        key, value = key.to(kind).transpose(0, 1), value.transpose(0, 1)
        far = query.reshape(groups, -1, width) @ prefix_key.transpose(1, 2)
        near = (query @ key.transpose(2, 3)).view(groups, rows, -1, length, length)
        near = near.masked_fill(~attention_mask, torch.finfo(kind).min).view(groups, rows, -1, length)
        weights = torch.cat([far.view(groups, rows, -1, prefix_key.shape[1]), near], -1).softmax(-1)
        to_prefix, to_row = weights.split([prefix_key.shape[1], length], -1)
        mixed = (to_prefix.reshape(groups, -1, prefix_key.shape[1]) @ prefix_value).view(groups, rows, -1, width)
        mixed = mixed + to_row @ value
    return mixed.transpose(0, 1).reshape(rows, heads, length, width).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
