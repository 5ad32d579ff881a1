"""A policy's responses: written in batches, and the log-probabilities of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.pairs import DataError
from training.stages.saving import whole_directory

MAX_TOKENS = 24
"""Of a response: the longest of the demo family's right answers in its longest style has 22."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Prompts, padded on the left, and their responses, padded on the right.

    ``ids`` and ``seen`` (1 for what is no padding): [rows, prompt + response]. ``mask``: [rows, response], true for the
    response's tokens up to and with the mark that ends it.
    """

    ids: Tensor
    seen: Tensor
    mask: Tensor

    @property
    def width(self) -> int:
        """Positions of the responses."""
        return int(self.mask.shape[1])

    @property
    def places(self) -> Tensor:
        """Each token's position, counted without the padding before it."""
        return (self.seen.cumsum(1) - 1).clamp(min=0)

    def take(self, rows: Tensor) -> Samples:
        """Some rows, by index or by truth."""
        return Samples(*(getattr(self, field.name)[rows] for field in fields(self)))


def load(path: str | Path) -> tuple[Any, Any]:
    """Model (float32, in evaluation mode: no policy here has dropout) and tokenizer, padding on the left.

    Raises `DataError` where there is no checkpoint.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no policy can be loaded ({error}); write one with `rlhf sft`.") from error
    return model.eval(), tokenizer


def save(model: Any, tokenizer: Any, directory: Path) -> None:
    """Whole or not at all. Raises `SaveError`."""
    with whole_directory(directory) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def write(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, greedy: bool = False, max_tokens: int = MAX_TOKENS
) -> tuple[Samples, list[str]]:
    """One response to each prompt, from the policy as it is (temperature 1, nothing cut off) or greedily.

    Returns the tokens and the texts without control tokens. Draws from torch's global generator.
    """
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    asked = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    end, start = tokenizer.convert_tokens_to_ids("<|im_end|>"), asked["input_ids"].shape[1]
    with torch.no_grad():
        ids = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            max_new_tokens=max_tokens,
            eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
            **how,
        )
    mask = up_to_end(ids[:, start:], end)
    samples = Samples(ids, torch.cat([asked["attention_mask"], mask.long()], 1), mask)
    kept = [row[real].tolist() for row, real in zip(ids[:, start:], mask, strict=True)]
    return samples, tokenizer.batch_decode(kept, skip_special_tokens=True)


def up_to_end(written: Tensor, end: int) -> Tensor:
    """[rows, tokens]: true up to and with each row's first ``end``; everywhere in a row that has none."""
    ended = (written == end).long()
    return ended.cumsum(1) - ended == 0


def log_probs(model: Any, samples: Samples) -> Tensor:
    """log pi(token | what stands before it) of the responses' tokens: [rows, response]; 0 outside the mask."""
    logits = model(
        input_ids=samples.ids,
        attention_mask=samples.seen,
        position_ids=samples.places,
        logits_to_keep=samples.width + 1,
        use_cache=False,
    ).logits[:, :-1]
    chosen = samples.ids[:, -samples.width :, None]
    found: Tensor = logits.float().log_softmax(-1).gather(-1, chosen)[..., 0]
    return found.masked_fill(~samples.mask, 0.0)
