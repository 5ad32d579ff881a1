"""The trainer of pairwise judges: reads labels, writes responses and judgments, and judges held-out pairs meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import EvalPrediction

from training.configs import StageRecipe
from training.evaluation.statistics import expected_calibration_error
from training.objectives.preference import log_label_mass, right_margin, smoothed_ranking_loss
from training.stages.examples import CUT, Batch
from training.stages.reading import Wanted
from training.stages.trainer import StageTrainer


@dataclass(frozen=True, slots=True)
class ReadTerm:
    """A kind of two-way read: its token pair, its weight in the loss, alpha, and the weight of the label-mass term."""

    tokens: tuple[int, int]
    weight: float = 1.0
    smoothing: float = 0.0
    mass_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a stage learns from an example: kinds of reads, and kinds of spans with their weights."""

    reads: Mapping[str, ReadTerm] = field(default_factory=dict)
    spans: Mapping[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """Weights in the loss, by term."""
        reads = {kind: term.weight for kind, term in self.reads.items()}
        masses = {f"{kind}_mass_loss": term.weight * term.mass_weight for kind, term in self.reads.items()}
        return {**reads, **{k: w for k, w in masses.items() if w}, **self.spans}

    @property
    def names(self) -> tuple[str, ...]:
        """All terms, those that are only reported too."""
        return (*self.weights, *(f"{kind}_accuracy" for kind in self.reads), CUT)


class JudgeTrainer(StageTrainer):
    """See the modules. ``prefixes``: the tokens all rows of each family begin with, run once a batch; None: not."""

    def __init__(
        self, recipe: StageRecipe, terms: Terms, prefixes: tuple[tuple[int, ...], ...] | None = None, **options: Any
    ) -> None:
        super().__init__(recipe, terms.weights, terms.names, compute_metrics=judged, **options)
        self.terms = terms
        self.prefixes = prefixes

    def term_counts(self, batch: Batch) -> dict[str, int]:
        counts: dict[str, int] = {}
        for part in parts(batch):
            counts[CUT] = counts.get(CUT, 0) + len(part["cut"])
            for name in self.names:
                kind = name.removesuffix("_accuracy").removesuffix("_mass_loss")
                if f"{kind}.rows" in part:
                    counts[name] = counts.get(name, 0) + part[f"{kind}.rows"].numel()
        return counts

    def term_sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for part in parts(batch):
            for name, value in self._part_sums(model, part).items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _part_sums(self, model: nn.Module, part: Batch) -> dict[str, Tensor]:
        reads = [kind for kind in self.terms.reads if f"{kind}.rows" in part]
        spans = [kind for kind in self.terms.spans if f"{kind}.rows" in part]
        wanted = [self._wanted_read(part, kind) for kind in reads]
        wanted += [Wanted(part[f"{k}.rows"], part[f"{k}.columns"], targets=part[f"{k}.targets"]) for k in spans]
        outputs = self._forward(model, part, wanted)
        sums: dict[str, Tensor] = {CUT: (part["cut"] > 0).sum()}
        for kind, logits in zip(reads, outputs, strict=False):
            sums |= self._read_sums(kind, logits.float(), part[f"{kind}.right"])
        return sums | {kind: losses.sum() for kind, losses in zip(spans, outputs[len(reads) :], strict=True)}

    def _wanted_read(self, part: Batch, kind: str, whole: bool = False) -> Wanted:
        """Two logits, unless the label-mass term needs the whole vocabulary at that position."""
        term = self.terms.reads[kind]
        rows, columns = part[f"{kind}.rows"], part[f"{kind}.columns"]
        whole = whole or term.mass_weight > 0
        return Wanted(rows, columns, None if whole else torch.tensor(term.tokens, device=rows.device))

    def _read_sums(self, kind: str, logits: Tensor, right: Tensor) -> dict[str, Tensor]:
        term = self.terms.reads[kind]
        tokens = torch.tensor(term.tokens, device=logits.device)
        margin = right_margin(logits[:, tokens] if term.mass_weight else logits, right)
        sums = {kind: smoothed_ranking_loss(margin, term.smoothing).sum(), f"{kind}_accuracy": (margin > 0).sum()}
        if term.mass_weight:
            sums[f"{kind}_mass_loss"] = -log_label_mass(logits, tokens).sum()
        return sums

    def _forward(self, model: nn.Module, part: Batch, wanted: list[Wanted]) -> tuple[Tensor, ...]:
        inputs = {"input_ids": part["input_ids"], "attention_mask": part["attention_mask"]}
        if self.prefixes is not None:
            prefix = self.prefixes[int(part["family"])]
            inputs = {"input_ids": part["input_ids"], "prefix": torch.tensor(prefix, device=part["input_ids"].device)}
        outputs: tuple[Tensor, ...] = model(**inputs, wanted=wanted)
        return outputs

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """Log-odds of the response shown first, and label mass [B, 2]; which is right [B]."""
        (part,) = parts(self._prepare_inputs(inputs))
        with torch.no_grad():
            (logits,) = self._forward(model, part, [self._wanted_read(part, "label", whole=True)])
            tokens = torch.tensor(self.terms.reads["label"].tokens, device=logits.device)
            pair = logits.float()[:, tokens]
            mass = log_label_mass(logits.float(), tokens).exp()
        return None, torch.stack([pair[:, 0] - pair[:, 1], mass], -1), part["label.right"]


def parts(batch: Batch) -> list[Batch]:
    """The batch itself, or the parts a shared prefix divides it into."""
    nested: Any = batch.get("parts")
    return [batch] if nested is None else list(nested)


def judged(prediction: EvalPrediction) -> dict[str, float]:
    """Figures of pairs that were judged in both orders; rows 2i and 2i + 1 are the two orders of a pair.

    ``accuracy`` is that of the two orders' mean probability, ``accuracy_one_order`` that of single readings, and
    ``flip_rate`` the share of pairs whose orders name different responses. ``ece`` is the expected calibration error of
    the mean probability (its log-odds), ``loss`` its mean negative log-likelihood in nats.
    """
    log_odds, mass = prediction.predictions[:, 0].astype(np.float64), prediction.predictions[:, 1]
    right = np.where(prediction.label_ids == 0, log_odds, -log_odds).reshape(-1, 2)
    p_right = (1.0 / (1.0 + np.exp(-right))).mean(1)
    limited = np.clip(p_right, 1e-12, 1 - 1e-12)
    loss = -logsigmoid(torch.tensor(right)).mean().item()
    return {
        "accuracy": float((p_right > 0.5).mean()),
        "accuracy_one_order": float((right > 0).mean()),
        "flip_rate": float(((right[:, 0] > 0) != (right[:, 1] > 0)).mean()),
        "label_mass": float(mass.mean()),
        "ece": expected_calibration_error(np.log(limited / (1 - limited))),
        "loss": loss,
    }
