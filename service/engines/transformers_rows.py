"""Several texts written together with plain transformers, each as if the others were not there.

The usual batch pads rows to one length, and padding moves the sums inside attention: a row's last bits, and with them
now and then a sampled token, depend on its company. Here every row keeps the library's own cache of its own prompt,
attention goes row by row, and all else (the matrix products, which take the time) runs on a batch of constant height.
On a CPU a row of such a product has the same bits whatever the other rows hold and wherever it stands, so a text that
is written again in other company is the same text. On a GPU that holds up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from service.errors import StartupError

NAME = "row_by_row"


class _Parts(list[Any]):
    """Keys or values of one layer, a tensor [1, heads, length, size] a row; lengths differ."""


class RowCaches(Cache):  # type: ignore[misc]  # a class of a library that is not followed
    """Caches of single rows as one: each takes its own row of what a layer adds."""

    def __init__(self, caches: Sequence[Any]) -> None:
        super().__init__(layers=[])
        self.caches = caches

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        keys, values = _Parts(), _Parts()
        for i, cache in enumerate(self.caches):
            key, value = cache.update(key_states[i : i + 1], value_states[i : i + 1], layer_idx, *args, **kwargs)
            keys.append(key)
            values.append(value)
        return keys, values


def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """The library's attention; row by row where keys are `_Parts`. Rows without a cache get zeros."""
    if not isinstance(key, _Parts):
        whole: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return whole
    rows = [
        sdpa_attention_forward(module, query[i : i + 1], k, v, None, **kwargs)[0]
        for i, (k, v) in enumerate(zip(key, value, strict=True))
    ]
    idle = query.shape[0] - len(rows)
    return torch.cat([*rows, rows[0].new_zeros(idle, *rows[0].shape[1:])]), None


def enable(model: Any) -> None:
    """Let ``model`` take `RowCaches`. Raises `StartupError` for attention of another kind than the common one."""
    if model.config._attn_implementation != "sdpa":
        raise StartupError("This model writes one text at a time with the transformers engine; set rows to 1.")
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def step(model: Any, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], height: int) -> Any:
    """One more token for each row: the float32 logits after ``tokens`` [rows, vocab]; the caches grow by one.

    ``positions`` are the tokens' places in their texts; ``height``, at least the number of rows, must not change.
    """
    idle = [0] * (height - len(tokens))
    device = model.device
    result = model(
        input_ids=torch.tensor([*tokens, *idle], device=device)[:, None],
        position_ids=torch.tensor([*positions, *idle], device=device)[:, None],
        attention_mask=torch.ones(height, 1, 1, 1, dtype=torch.bool, device=device),  # 4-D: taken as it is, and unused
        past_key_values=RowCaches(caches),
        use_cache=True,
        logits_to_keep=1,
    )
    return result.logits[: len(tokens), -1].float()


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a text: the tokenizer's, and those of the generation config where there is one."""
    config = getattr(model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None) or []
    ids = [configured] if isinstance(configured, int) else list(configured)
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
