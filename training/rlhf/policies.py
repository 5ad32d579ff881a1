"""A policy's responses: written in batches, and the log-probabilities of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from training.data.pairs import DataError
from training.stages.saving import whole_directory

MAX_TOKENS = 24
"""Of a response: the longest of the demo family's right answers in its longest style has 22."""
PACKED = "packed_rows"
"""Name of the attention of rows without padding."""


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
    ids, seen = asked["input_ids"], asked["attention_mask"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    written = torch.full((len(ids), max_tokens), tokenizer.pad_token_id)
    with torch.no_grad():
        written = written[:, : _fill(written, model, ids, seen, greedy, end)]
    mask = up_to_end(written, end)
    samples = Samples(torch.cat([ids, written], 1), torch.cat([seen, mask.long()], 1), mask)
    kept = [row[real].tolist() for row, real in zip(written, mask, strict=True)]
    return samples, tokenizer.batch_decode(kept, skip_special_tokens=True)


def _fill(written: Tensor, model: Any, ids: Tensor, seen: Tensor, greedy: bool, end: int) -> int:
    """Write what the library's `generate` writes, and compute no further for rows that have ended; tokens written.

    Like `generate` it draws for every row at every token, so that a row's luck is not moved by when others end.
    """
    rows, cache, places = torch.arange(len(ids)), None, (seen.cumsum(1) - 1).clamp(min=0)
    for t in range(written.shape[1]):
        found = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, logits = found.past_key_values, found.logits[:, -1].float()
        chosen = logits.argmax(-1) if greedy else _draw(logits, rows, len(written))
        written[rows, t] = chosen
        going = chosen != end
        if not going.any():
            return t + 1
        if not going.all():
            cache.batch_select_indices(going)
        rows, ids, places = rows[going], chosen[going, None], places[going, -1:] + 1
        seen = torch.nn.functional.pad(seen[going], (0, 1), value=1)
    return int(written.shape[1])


def _draw(logits: Tensor, rows: Tensor, count: int) -> Tensor:
    """A token for each of ``rows`` by its ``logits`` [rows, vocab], drawn as if all ``count`` rows were there."""
    chances = torch.ones(count, logits.shape[1])
    chances[rows] = logits.softmax(-1)
    return torch.multinomial(chances, 1)[rows, 0]


def up_to_end(written: Tensor, end: int) -> Tensor:
    """[rows, tokens]: true up to and with each row's first ``end``; everywhere in a row that has none."""
    ended = (written == end).long()
    return ended.cumsum(1) - ended == 0


def states(body: Any, samples: Samples) -> Tensor:
    """What a transformer holds before each token of the responses: [tokens that `mask` holds, hidden], row by row.

    Nothing is computed for padding: the rows stand one behind the other, and each attends to itself (`_attend`).
    """
    if body.config._attn_implementation != PACKED:
        AttentionInterface.register(PACKED, _attend)
        AttentionMaskInterface.register(PACKED, sdpa_mask)
        body.set_attn_implementation(PACKED)
    seen = samples.seen.bool()
    hidden: Tensor = body(
        input_ids=samples.ids[seen][None],
        position_ids=samples.places[seen][None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),  # 4-D: taken as it is, and unused
        use_cache=False,
        lengths=samples.seen.sum(1).tolist(),
    ).last_hidden_state[0]
    spoken = torch.nn.functional.pad(samples.mask, (samples.ids.shape[1] - samples.width, 0))[seen]
    return hidden[spoken.nonzero()[:, 0] - 1]


def _attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, lengths: list[int] | None = None, **kwargs: Any
) -> tuple[Any, None]:
    """The library's attention; with ``lengths`` [1, heads, tokens, size] are rows of these lengths, each by itself."""
    if lengths is None:
        whole: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return whole
    rows = zip(*(tensor.split(lengths, 2) for tensor in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *row, None, **kwargs)[0] for row in rows], 1), None


def log_probs(model: Any, samples: Samples) -> Tensor:
    """log pi(token | what stands before it) of the responses' tokens: [rows, response]; 0 outside the mask."""
    logits = model.lm_head(states(model.model, samples)).float()
    chosen = samples.ids[:, -samples.width :][samples.mask]
    found = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
    return spread(found, samples.mask)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the tokens that ``mask`` holds, put into its places; 0 elsewhere."""
    return torch.zeros(mask.shape).masked_scatter(mask, values)
