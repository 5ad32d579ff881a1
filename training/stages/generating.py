"""A model in training writes, and what it wrote is read as the service would read it: parsed, then two logits.

Greedy, through the library's own `generate`, so that it works under every way of sharding. A run that samples by the
million goes through the service's engines instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from service.judging.base import PairwiseFamily, Parsed
from service.tokenization import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Writing:
    """What was generated: tokens without the one that ends them, the text, and whether it ended by itself."""

    ids: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Opinion:
    """A writing read as a judgment. ``letter`` is 0 (A), 1 (B) or 2 (none, or cut off); the rest is NaN for 2.

    ``p_first`` is P(the response shown first is better), ``mass`` is p(A) + p(B), both where the text has its letter.
    """

    letter: int
    p_first: float
    mass: float


def write_greedily(
    model: Any, chat: ChatTokenizer, prompts: Sequence[Sequence[int]], most: int, pad_id: int, *, together: bool = False
) -> list[Writing]:
    """One greedy writing of at most ``most`` tokens for each prompt. ``together``: all processes go on until each is
    through, as sharded weights require."""
    device = next(model.parameters()).device
    ids, mask = _padded_left(prompts, pad_id)
    ends = end_ids(model, chat)
    config = GenerationConfig(
        max_new_tokens=most, do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=pad_id, use_cache=True
    )
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            synced_gpus=together,
        )
    return [as_writing(chat, row, ends) for row in out[:, ids.shape[1] :].tolist()]


def read_opinions(
    model: Any,
    chat: ChatTokenizer,
    family: PairwiseFamily,
    prompts: Sequence[Sequence[int]],
    writings: Sequence[Writing],
    label_ids: tuple[int, int],
    pad_id: int,
) -> list[Opinion]:
    """Verdict and probability of each writing."""
    parsed = [family.parse(writing.text) for writing in writings]
    cut = [_up_to_letter(chat, w, p) for w, p in zip(writings, parsed, strict=True)]
    ids, mask = _padded_left([(*prompt, *before) for prompt, before in zip(prompts, cut, strict=True)], pad_id)
    device = next(model.parameters()).device
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(
            input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=places.to(device), logits_to_keep=1
        )
    logits = output.logits[:, -1].float().cpu()
    return [_opinion(w, p, row, label_ids) for w, p, row in zip(writings, parsed, logits, strict=True)]


def _opinion(writing: Writing, parsed: Parsed, logits: Tensor, label_ids: tuple[int, int]) -> Opinion:
    if not writing.ended or parsed.verdict == "invalid":
        return Opinion(2, float("nan"), float("nan"))
    pair = logits.log_softmax(-1)[list(label_ids)]
    return Opinion("AB".index(parsed.verdict), torch.sigmoid(pair[0] - pair[1]).item(), pair.exp().sum().item())


def _up_to_letter(chat: ChatTokenizer, writing: Writing, parsed: Parsed) -> tuple[int, ...]:
    """The generated tokens before the letter; encoded anew where the cut falls inside a token."""
    if parsed.label_at is None:
        return ()
    prefix = chat.prefix_to(writing.ids, parsed.label_at)
    return prefix if prefix is not None else chat.encode_text(writing.text[: parsed.label_at])


def as_writing(chat: ChatTokenizer, ids: Sequence[int], ends: Sequence[int]) -> Writing:
    """Generated tokens up to the first that ends a text, as text."""
    at = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = tuple(ids if at is None else ids[:at])
    return Writing(kept, chat.decode(kept), at is not None)


def _padded_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def end_ids(model: Any, chat: ChatTokenizer) -> list[int]:
    """Every id that ends a text: the tokenizer's, and those of the generation config where there is one."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None) or []
    listed = [configured] if isinstance(configured, int) else list(configured)
    return sorted({i for i in (*listed, chat.eos_id) if i is not None})
