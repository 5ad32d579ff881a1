"""A small judge that writes: learning texts, and writing them with cached attention, greedy or sampled.

Sampling reads its random numbers from a table [rows, tokens] that the caller draws, one for each vote: what a row is
answered depends on its own numbers alone, not on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from training.objectives.language_model import language_model_loss
from training.studies.backbone import derived_seed, random_for
from training.studies.fitting import Plan, descend, rows_of_epochs
from training.studies.judges import LABEL_A, LABEL_B, Shape, new_transformer
from training.studies.reasoning.rationales import PAD, WORDS, Cases, Floats
from training.studies.tasks import Integers

AT_ONCE = 4_096
"""Texts written at once."""


class Writer(nn.Module):
    """A Qwen3 transformer of a study's shape, as `training.studies.judges.Judge`, over the words of rationales."""

    def __init__(self, shape: Shape, words: int = WORDS) -> None:
        super().__init__()
        self.body = new_transformer(shape, words)

    def logits(self, prompt: Tensor, text: Tensor) -> Tensor:
        """[B, T, V]: before each token of ``text`` [B, T], given ``prompt`` [B, P]."""
        ids = torch.cat([prompt, text[:, :-1]], dim=1)
        hidden = self.body.model(input_ids=ids, use_cache=False).last_hidden_state
        logits: Tensor = self.body.lm_head(hidden[:, prompt.shape[1] - 1 :])
        return logits

    def log_p(self, prompt: Tensor, text: Tensor) -> Tensor:
        """[B, T], nats: of each token of ``text``; 0 at `PAD`."""
        all_log_p = self.logits(prompt, text).float().log_softmax(-1)
        return all_log_p.gather(2, text[:, :, None])[:, :, 0] * (text != PAD)


def new_writer(shape: Shape, seed: int, words: int = WORDS) -> Writer:
    """Fresh weights from a seed."""
    torch.manual_seed(derived_seed("weights", seed))
    return Writer(shape, words)


@dataclass(frozen=True, slots=True)
class Rows:
    """``B`` texts to learn: token ids of prompts [B, P] and of texts [B, T], `PAD` behind."""

    prompt: Tensor
    text: Tensor

    @classmethod
    def of(cls, prompt: Integers, text: Integers) -> Rows:
        return cls(torch.from_numpy(np.ascontiguousarray(prompt)), torch.from_numpy(np.ascontiguousarray(text)))

    @classmethod
    def true(cls, cases: Cases) -> Rows:
        """What a person who makes no mistake would write."""
        return cls.of(cases.prompt, cases.text)

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: Tensor) -> Rows:
        return Rows(self.prompt[rows], self.text[rows])

    def and_also(self, more: Rows) -> Rows:
        return Rows(torch.cat([self.prompt, more.prompt]), torch.cat([self.text, more.text]))


Objective = Callable[[Writer, Rows], Tensor]


def text_loss(writer: Writer, rows: Rows) -> Tensor:
    """-log p of rationale and verdict given the prompt, mean over tokens: GRAM-R2's L_g, RM-R1's distillation."""
    said = rows.text != PAD
    return language_model_loss(writer.logits(rows.prompt, rows.text)[said], rows.text[said])


def learn(writer: Writer, rows: Rows, plan: Plan, seed: int, objective: Objective = text_loss) -> float:
    """Train for the plan's steps on a fixed set, reshuffled each epoch; returns the mean loss of the last tenth."""
    batches = rows_of_epochs(len(rows), plan.batch, seed)
    return descend(writer, plan, writer, lambda: objective(writer, rows.take(next(batches))))


@dataclass(frozen=True, slots=True)
class Written:
    """Texts as a judge wrote them."""

    text: Integers
    """[B, T]: `PAD` behind the first verdict, or none where no verdict came."""
    log_p: Floats
    """[B, T], nats: of each token under the judge at temperature 1; 0 at `PAD`."""

    @property
    def confidence(self) -> Floats:
        """[B]: the probability the judge gave to the verdict it wrote, after what it wrote before; 0 without one."""
        labels = (self.text == LABEL_A) | (self.text == LABEL_B)
        probability: Floats = np.exp(np.where(labels, self.log_p, 0.0).sum(axis=1)) * labels.any(axis=1)
        return probability

    def __len__(self) -> int:
        return len(self.text)

    @property
    def lengths(self) -> Integers:
        """[B]: tokens written."""
        count: Integers = (self.text != PAD).sum(axis=1)
        return count


def noise_for(rows: int, tokens: int, *purpose: object) -> Floats:
    """Random numbers for one vote of each row [rows, tokens]; the same words give the same numbers."""
    return random_for("sampling", *purpose).random((rows, tokens))


def write(
    writer: Writer, prompt: Integers, tokens: int, noise: Floats | None = None, temperature: float = 1.0
) -> Written:
    """A text of at most ``tokens`` for each prompt [B, P]: greedy, or drawn with ``noise`` [B, tokens]."""
    if not len(prompt):
        return Written(np.zeros((0, tokens), np.int64), np.zeros((0, tokens)))
    texts, log_ps = [], []
    for start in range(0, len(prompt), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        text, log_p = _write(writer, prompt[part], tokens, None if noise is None else noise[part], temperature)
        texts.append(text)
        log_ps.append(log_p)
    return Written(np.concatenate(texts), np.concatenate(log_ps))


def _write(
    writer: Writer, prompt: Integers, tokens: int, noise: Floats | None, temperature: float
) -> tuple[Integers, Floats]:
    ids, cache = torch.from_numpy(np.ascontiguousarray(prompt)), DynamicCache()
    text = np.full((len(prompt), tokens), PAD)
    log_ps = np.zeros((len(prompt), tokens))
    going = np.ones(len(prompt), bool)
    with torch.inference_mode():
        for at in range(tokens):
            out = writer.body.model(input_ids=ids, past_key_values=cache, use_cache=True)
            log_p = writer.body.lm_head(out.last_hidden_state[:, -1]).float().log_softmax(-1)
            chosen = log_p.argmax(-1) if noise is None else drawn(log_p, noise[:, at], temperature)
            ids = chosen[:, None]
            text[going, at] = chosen.numpy()[going]
            log_ps[going, at] = log_p.gather(1, ids)[:, 0].numpy()[going]
            going &= (text[:, at] != LABEL_A) & (text[:, at] != LABEL_B)
            if not going.any():
                break
    return text, log_ps


def drawn(log_p: Tensor, noise: Floats, temperature: float) -> Tensor:
    """[B]: tokens drawn from [B, V] by the inverse of the cumulative distribution at ``noise`` [B]. Never `PAD`."""
    p = (log_p.double() / temperature).softmax(-1)
    p[:, PAD] = 0.0
    cumulative = p.cumsum(-1)
    point = torch.from_numpy(np.ascontiguousarray(noise))[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True)[:, 0].clamp(max=p.shape[1] - 1)
