"""Trainers of models that write: of judges, which write held-out judgments meanwhile, and of provers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import EvalPrediction

from service.judging.base import PairwiseFamily
from service.tokenization import ChatTokenizer
from training.configs import StageRecipe
from training.data.pairs import Pair
from training.stages.examples import Batch, collate
from training.stages.export import Judged
from training.stages.generating import read_opinions, write_greedily
from training.stages.judging import JudgeTrainer, Terms
from training.stages.reading import Wanted
from training.stages.texts import KIND

SAMPLES = "samples.jsonl"
"""What the judge wrote of the first held-out pair, a line for each evaluation."""


@dataclass(frozen=True, slots=True)
class Writer:
    """How a judge writes: its family, the tokenizer, and at most so many tokens."""

    family: PairwiseFamily
    chat: ChatTokenizer
    most: int
    pad_id: int

    @property
    def label_ids(self) -> tuple[int, int]:
        return self.chat.label_ids(None, self.family.verdict_opener, self.family.labels)


class TextTrainer(JudgeTrainer):
    """Learns texts; its evaluation is their loss on held-out rows."""

    data_collator: Any

    def __init__(self, recipe: StageRecipe, prefixes: Any, pad_id: int, **options: Any) -> None:
        super().__init__(recipe, Terms(spans={KIND: 1.0}), prefixes, **options)
        self.compute_metrics = mean_loss
        self.pad_id = pad_id

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return self._unshared(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        return self._unshared(super().get_test_dataloader, test_dataset)

    def _unshared(self, loader: Any, dataset: Any) -> Any:
        """Whole rows: an evaluation does not share prefixes."""
        usual: Any = self.data_collator
        pad_id = self.pad_id
        self.data_collator = lambda examples: collate(examples, pad_id)
        try:
            return loader(dataset)
        finally:
            self.data_collator = usual

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """Sum of the losses of a row's text in nats, and its number of tokens [B, 2]; no labels."""
        batch = self._prepare_inputs(inputs)
        rows = batch[f"{KIND}.rows"]
        wanted = Wanted(rows, batch[f"{KIND}.columns"], targets=batch[f"{KIND}.targets"])
        with torch.no_grad():
            (losses,) = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], wanted=[wanted])
        sums = torch.zeros(len(batch["input_ids"]), 2, device=losses.device)
        sums.index_add_(0, rows, torch.stack([losses.float(), torch.ones_like(losses.float())], -1))
        return None, sums, torch.zeros(len(sums), dtype=torch.long, device=losses.device)


class WritingJudgeTrainer(TextTrainer):
    """Learns texts; its evaluation is judging held-out pairs in writing, both orders, greedily."""

    def __init__(self, recipe: StageRecipe, prefixes: Any, writer: Writer, **options: Any) -> None:
        super().__init__(recipe, prefixes, writer.pad_id, **options)
        self.writer = writer
        self.compute_metrics = written

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self._wants_sample = self.args.should_save
        figures: dict[str, float] = super().evaluate(*args, **kwargs)
        return figures

    _wants_sample = False

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """Letter, P(first shown better), mass, tokens, cut off [B, 5]; which is right [B]. See `written`."""
        batch = self._prepare_inputs(inputs)
        ids, lengths = batch["input_ids"].tolist(), batch["attention_mask"].sum(1).tolist()
        prompts = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        w, together = self.writer, self.accelerator.num_processes > 1
        writings = write_greedily(model, w.chat, prompts, w.most, w.pad_id, together=together)
        opinions = read_opinions(model, w.chat, w.family, prompts, writings, w.label_ids, w.pad_id)
        if self._wants_sample:
            self._keep_sample(writings[0].text)
        rows = [
            (o.letter, o.p_first, o.mass, len(text.ids), not text.ended)
            for o, text in zip(opinions, writings, strict=True)
        ]
        return None, torch.tensor(rows, dtype=torch.float32, device=batch["input_ids"].device), batch["label.right"]

    def _keep_sample(self, text: str) -> None:
        """Behind those of earlier steps; what a resumed run evaluates again takes the place of what there was."""
        self._wants_sample = False
        path, step = Path(self.args.output_dir) / SAMPLES, self.state.global_step
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        kept = [f"{line}\n" for line in lines if line and json.loads(line)["step"] < step]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("".join(kept) + json.dumps({"step": step, "text": text}) + "\n", encoding="utf-8")
        part.replace(path)


def mean_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Mean loss of a token of held-out texts, in nats."""
    sums, counts = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
    return {"loss": float(sums / counts)}


def written(prediction: EvalPrediction) -> dict[str, float]:
    """Figures of pairs that were judged in writing in both orders; rows 2i and 2i + 1 are the two orders of a pair.

    ``accuracy`` is that of the two orders' mean probability, a pair with an invalid order counted as wrong;
    ``accuracy_one_order`` that of single texts. ``parse_rate`` is the share of texts with a verdict, ``cut_rate`` of
    those that were not finished; ``flip_rate`` is among pairs valid in both orders, ``verdict_mass`` among valid texts;
    ``tokens`` is the mean length.
    """
    letters, p_first, mass, tokens, cut = np.asarray(prediction.predictions, dtype=np.float64).T
    right = np.asarray(prediction.label_ids)
    valid, correct = letters < 2, letters == right
    p_right = np.where(right == 0, p_first, 1.0 - p_first)
    both = valid.reshape(-1, 2).all(1)
    figures = {
        "accuracy": float((both & (_nan_to_zero(p_right).reshape(-1, 2).mean(1) > 0.5)).mean()),
        "accuracy_one_order": float(correct.mean()),
        "parse_rate": float(valid.mean()),
        "cut_rate": float(cut.mean()),
        "tokens": float(tokens.mean()),
    }
    if both.any():
        orders = correct.reshape(-1, 2)[both]
        figures |= {"flip_rate": float((orders[:, 0] != orders[:, 1]).mean())}
    return figures | ({"verdict_mass": float(mass[valid].mean())} if valid.any() else {})


def judged_pairs(pairs: Sequence[Pair], predictions: Any, labels: Any) -> list[Judged]:
    """The pairs that are valid in both orders, with P(the better response is better)."""
    letters, p_first = np.asarray(predictions, dtype=np.float64).T[:2]
    p_right = np.where(np.asarray(labels) == 0, p_first, 1.0 - p_first).reshape(-1, 2)
    both = (letters < 2).reshape(-1, 2).all(1)
    found = zip(pairs, p_right.tolist(), both.tolist(), strict=True)
    return [Judged(pair, sum(p) / 2, (p[0], p[1])) for pair, p, valid in found if valid]


def _nan_to_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.nan_to_num(values, nan=0.0)
