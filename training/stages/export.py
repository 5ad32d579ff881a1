"""From trained weights to the directory the service loads: weights, tokenizer, `judge.json` with a self-test."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from service.judging.base import Family
from service.manifest import JudgeEntry, Manifest, SelfTest
from training.configs import OutputSection, SelfTestSection
from training.data.pairs import Pair
from training.stages.saving import whole_directory

log = logging.getLogger(__name__)

SHORT = 400
"""Characters of a pair that is asked at every start of the service."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair, and what the trained model says of it: P(the better response is better), overall and in each order."""

    pair: Pair
    p: float
    p_orders: tuple[float, float]


def pick_self_test(judged: Sequence[Judged], given: SelfTestSection | None) -> SelfTest | None:
    """The recipe's own pair if the model gets it right, else the short pair the model is surest of.

    Only pairs that both orders get right will do; None if there is none. The service asks for half of the confidence
    above 0.5, so that another number format or engine does not fail a sound checkpoint.
    """
    right = [j for j in judged if min(j.p_orders) > 0.5 and j.pair.prompt.is_single_turn and _is_fit(j.pair)]
    if given is not None:
        own = [j for j in right if _texts(j.pair) == (given.prompt, given.chosen, given.rejected)]
        right = own or right
    if not right:
        return None
    best = max(right, key=lambda j: (sum(map(len, _texts(j.pair))) <= SHORT, j.p))
    return SelfTest(*_texts(best.pair), math.floor((0.5 + (best.p - 0.5) / 2) * 100) / 100)


def gathered_state(trainer: Any) -> dict[str, torch.Tensor] | None:
    """The whole state dict on the main process, None on the others; every process must call it."""
    state: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state if trainer.args.should_save else None


def save_model(
    directory: Path,
    model: Any,
    state: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    base: Any,
) -> None:
    """Weights in ``dtype``, and the tokenizer. ``base()`` loads the backbone anew, to merge adapters into it."""
    kind = getattr(torch, dtype)
    if isinstance(model, PeftModel):
        with TemporaryDirectory(dir=directory) as adapters:
            model.save_pretrained(adapters, state_dict=state)
            merged = PeftModel.from_pretrained(base(), adapters).merge_and_unload()
        model = merged.to(kind)
        model.save_pretrained(directory)
    else:
        tied = model.all_tied_weights_keys  # cast apart they would be saved twice
        own = {name: t for name, t in state.items() if tied.get(name) not in state}
        cast = {name: t.to(kind) if t.is_floating_point() else t for name, t in own.items()}
        model.save_pretrained(directory, state_dict=cast)
    model.config.dtype = kind  # the library names the type that was trained in,
    model.config.use_cache = True  # and the trainer switches this off
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def entry(
    name: str, family: Family, max_prompt_tokens: int, max_rationale_tokens: int, self_test: SelfTest | None
) -> JudgeEntry:
    """A judge of the manifest."""
    labels = () if family.reads == "scalar" else family.labels
    return JudgeEntry(name, family.name, family.template, labels, max_prompt_tokens, max_rationale_tokens, self_test)


def write_checkpoint(output: OutputSection, version: str, entries: tuple[JudgeEntry, ...], write_weights: Any) -> None:
    """The whole directory, or nothing. ``write_weights(directory)`` puts the weights there. Raises `SaveError`."""
    directory = Path(output.directory)
    if any(e.self_test is None for e in entries):
        log.warning("%s: no evaluation pair was right in both orders, so judge.json has no self-test.", directory)
    with whole_directory(directory) as part:
        write_weights(part)
        if entries:
            Manifest(version, entries).save(part)
    log.info("wrote %s", directory)


def _texts(pair: Pair) -> tuple[str, str, str]:
    return pair.prompt.messages[0].content, pair.chosen, pair.rejected


def _is_fit(pair: Pair) -> bool:
    """The manifest takes texts that are not empty and valid Unicode."""
    try:
        return all(text.strip() and text.encode("utf-8") for text in _texts(pair))
    except UnicodeEncodeError:
        return False
