"""Reads of prompts that begin alike with plain transformers: what they share is read once.

A judge's prompts begin with the same page of instructions. A prompt is read in blocks of `BLOCK` tokens and, in one
piece, a rest of `REST` or more; keys and values after each block are kept. Blocks are cut the same way whether they are
known or not, so an answer has the same bits after a hit, a miss and an eviction; from one read of the whole prompt it
differs by rounding.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch

BLOCK = 32
REST = 32
"""The least that is read in one piece: what follows the instructions is seldom shorter."""
KEPT = 64
"""Prefixes that are remembered, the last used ones."""

Key = tuple[str | None, str | None, tuple[int, ...]]
"""Adapter, the tenant's salt, tokens."""


class PrefixReader:
    """Reads prompts for a causal model, one at a time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._caches: OrderedDict[Key, Any] = OrderedDict()

    def read(self, ids: tuple[int, ...], adapter: str | None, salt: str | None) -> tuple[Any, int]:
        """The logits after the last token, float32 [vocab], and how many tokens were known already."""
        whole = max(0, len(ids) - REST) // BLOCK * BLOCK
        known, cache = self._known(ids, whole, adapter, salt)
        for start in range(known, whole, BLOCK):
            cache = self._forward(ids[start : start + BLOCK], cache).past_key_values
            self._keep((adapter, salt, ids[: start + BLOCK]), cache)
        logits = self._forward(ids[whole:], cache).logits
        return logits[0, -1].float(), known

    def _known(self, ids: tuple[int, ...], whole: int, adapter: str | None, salt: str | None) -> tuple[int, Any]:
        """The longest known beginning, in whole blocks."""
        for end in range(whole, 0, -BLOCK):
            key = (adapter, salt, ids[:end])
            if key in self._caches:
                self._caches.move_to_end(key)
                return end, self._caches[key]
        return 0, None

    def _keep(self, key: Key, cache: Any) -> None:
        self._caches[key] = cache
        if len(self._caches) > KEPT:
            self._caches.popitem(last=False)

    def _forward(self, ids: tuple[int, ...], cache: Any) -> Any:
        """The model's output for ``ids`` after what ``cache`` holds; the cache is left as it was."""
        return self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            past_key_values=deepcopy(cache),
            use_cache=True,
            logits_to_keep=1,
        )
