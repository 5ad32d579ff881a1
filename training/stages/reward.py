"""The discriminative baseline: a backbone with one output, trained on pairs, served as family ``scalar``.

Both conversations of a pair go through one forward; the reward is read at the last token, as the service reads it.
GRM's text regulariser (arXiv 2406.10216) keeps the language-model head at work on the same hidden states; it is not
saved. Its variant with a reference model needs no second one: the reference is the model that training starts from, so
its log-probabilities are taken before the first step, each process those of its share of the pairs (with the whole
model on its device for that while).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from service.judging import scalar
from service.judging.base import sigmoid
from service.tokenization import ChatTokenizer
from service.types import Rendered
from training.configs import RewardRecipe
from training.data.pairs import DataError, Pair
from training.data.rows import RewardRow, RewardRows
from training.evaluation.statistics import expected_calibration_error
from training.objectives.bradley_terry import bradley_terry_losses
from training.objectives.text_regularizer import text_losses
from training.stages.datasets import check_self_test, evaluation_pairs, pair_bytes, training_pairs
from training.stages.examples import CUT, Batch, Example, Span, collate
from training.stages.export import Judged, entry, gathered_state, pick_self_test, save_model, write_checkpoint
from training.stages.models import check_positions, load_causal, load_scalar, load_tokenizer, with_adapters
from training.stages.reading import ReadableHead
from training.stages.run import arguments, processes, train, write_figures
from training.stages.trainer import StageTrainer

log = logging.getLogger(__name__)


def train_reward(
    recipe: RewardRecipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> RewardTrainer:
    """Train, measure on the held-out pairs, write the checkpoint. Raises `DataError` and `SaveError`."""
    tokenizer = load_tokenizer(recipe.model)
    chat = ChatTokenizer(tokenizer)
    rows = RewardRows(chat, scalar.FAMILY, recipe.data.max_tokens)
    pairs = training_pairs(recipe.data, recipe.seed, labelled=True, build=rows.row)
    if recipe.objective.margin:
        _require_margins(pairs)
    dataset = RewardDataset(pairs, chat, recipe)
    held_out = evaluation_pairs(recipe.data, recipe.evaluation.limit, rows.row)
    check_self_test(recipe.output.self_test, held_out)
    args = arguments(recipe, len(dataset) or processes(), evaluates=bool(held_out))

    model = load_scalar(recipe.model, recipe.precision, tokenizer)
    check_positions(model, recipe.data.max_tokens)
    read_rewards(model)
    if recipe.objective.text_regularizer != "none":
        add_text_head(model, recipe, tokenizer)
    if recipe.objective.text_regularizer == "dpo":
        dataset.reference = reference_log_p(model, dataset, tokenizer.pad_token_id, args)
    if recipe.objective.freeze_backbone:
        model.base_model.requires_grad_(False)
    if recipe.model.lora is not None:
        model = with_adapters(model, recipe.model.lora, "SEQ_CLS")
    trainer = RewardTrainer(
        recipe,
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=RewardDataset(held_out, chat, recipe) if held_out else None,
        data_collator=partial(collate_pairs, pad_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        compute_metrics=rewarded,
    )
    train(trainer, resume=resume)
    _export(recipe, trainer, model, tokenizer, _final(recipe, trainer, held_out))
    return trainer


class RewardItem(NamedTuple):
    """The two conversations of a pair, how much better the first is, and both responses' log p by the reference."""

    chosen: Example
    rejected: Example
    margin: float
    reference: tuple[float, float]


class RewardDataset(Dataset[RewardItem]):
    """Each pair as two conversations, the better one first."""

    def __init__(self, pairs: Sequence[Pair], chat: ChatTokenizer, recipe: RewardRecipe) -> None:
        self.reference: Sequence[tuple[float, float]] | None = None
        self._pairs, self._chat = pairs, chat
        self._rows = RewardRows(chat, scalar.FAMILY, recipe.data.max_tokens)
        self._text = recipe.objective.text_regularizer != "none"

    def __len__(self) -> int:
        return len(self._pairs)

    def lengths(self) -> list[int]:
        return [pair_bytes(pair) for pair in self._pairs]

    def __getitem__(self, index: int) -> RewardItem:
        pair = self._pairs[index]
        row = self._rows.row(pair)
        start = self._response_start(pair, row) if self._text else 0
        chosen, rejected = (
            Example(ids, spans=(Span("text", start, len(ids)),) if self._text else (), cut=row.cut)
            for ids in (row.chosen, row.rejected)
        )
        reference = self.reference[index] if self.reference is not None else (0.0, 0.0)
        return RewardItem(chosen, rejected, pair.margin or 0.0, reference)

    def _response_start(self, pair: Pair, row: RewardRow) -> int:
        """Where the responses begin; in a row whose prompt was cut, where the two conversations part."""
        opening = self._chat.encode(Rendered(pair.prompt.messages, generation_prompt=True))
        if row.chosen[: len(opening)] == opening == row.rejected[: len(opening)]:
            return len(opening)
        both = zip(row.chosen, row.rejected, strict=False)
        return next((i for i, (a, b) in enumerate(both) if a != b), min(len(row.chosen), len(row.rejected)) - 1)


def collate_pairs(items: Sequence[RewardItem], pad_id: int) -> Batch:
    """``input_ids`` [2 B, T]: the better and the worse conversation of each pair in turn; ``margin`` [B], ``reference``
    [2 B]."""
    batch = collate([example for item in items for example in (item.chosen, item.rejected)], pad_id)
    reference = torch.tensor([log_p for item in items for log_p in item.reference])
    return {**batch, "margin": torch.tensor([item.margin for item in items]), "reference": reference}


def read_rewards(model: Any) -> None:
    """Extend the model's forward by ``rewards=True``: rewards [rows] at the last tokens, and the hidden states' losses.

    ``text`` are rows, columns and targets of tokens whose -log p is wanted, [n].
    """
    usual = model.forward

    def forward(
        self: Any, *args: Any, rewards: bool = False, text: tuple[Tensor, Tensor, Tensor] | None = None, **inputs: Any
    ) -> Any:
        if not rewards:
            return usual(*args, **inputs)
        hidden = self.base_model(*args, **inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        values = self.score(hidden[torch.arange(len(last), device=last.device), last])[:, 0].float()
        if text is None:
            return (values,)
        rows, columns, targets = text
        return values, self.text_head(hidden[rows, columns], None, targets)

    model.forward = MethodType(forward, model)


def add_text_head(model: Any, recipe: RewardRecipe, tokenizer: Any) -> None:
    """Put the language model's output matrix beside the reward head, trainable; the saved checkpoint leaves it out."""
    head = load_causal(recipe.model, recipe.precision, tokenizer).get_output_embeddings()
    model.text_head = ReadableHead(head.in_features, head.out_features, bias=head.bias is not None)
    model.text_head.load_state_dict(head.state_dict())
    model.text_head.to(head.weight.dtype)


def reference_log_p(
    model: Any, dataset: RewardDataset, pad_id: int, args: TrainingArguments
) -> list[tuple[float, float]]:
    """log p of both responses of each pair by the model as it is, before a step has changed it."""
    state = PartialState()
    mine = range(state.process_index, len(dataset), state.num_processes)
    size = args.per_device_train_batch_size
    model.to(args.device)
    model.eval()
    found: list[tuple[float, float]] = []
    with torch.no_grad(), torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
        starts = range(0, len(mine), size)
        for start in tqdm(starts, desc="reference", unit="batch", disable=None if args.should_save else True):
            items = [dataset[i] for i in mine[start : start + size]]
            batch = {name: value.to(args.device) for name, value in collate_pairs(items, pad_id).items()}
            log_p = _text_log_p(batch, model(**_inputs(batch, text=True), rewards=True)[1])
            found += zip(log_p[0::2].tolist(), log_p[1::2].tolist(), strict=True)
    model.train()
    shares = gather_object([found])
    return [shares[i % state.num_processes][i // state.num_processes] for i in range(len(dataset))]


def _inputs(batch: Batch, text: bool) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if text:
        inputs["text"] = (batch["text.rows"], batch["text.columns"], batch["text.targets"])
    return inputs


def _text_log_p(batch: Batch, losses: Tensor) -> Tensor:
    """log p of each response [2 B], the sum over its tokens, from -log p of the tokens [n]."""
    rows = len(batch["input_ids"])
    return torch.zeros(rows, device=losses.device).index_add(0, batch["text.rows"], -losses)


class RewardTrainer(StageTrainer):
    """Bradley-Terry and its relatives; see `training.objectives`."""

    def __init__(self, recipe: RewardRecipe, **options: Any) -> None:
        objective = recipe.objective
        text = objective.text_weight if objective.text_regularizer != "none" else 0.0
        weights = {"reward": 1.0 - text} | ({"text": text} if text else {})
        super().__init__(recipe, weights, (*weights, "accuracy", "reward_gap", CUT), **options)
        self.objective = objective

    def term_counts(self, batch: Batch) -> dict[str, int]:
        return dict.fromkeys(self.names, batch["margin"].numel())

    def term_sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = self._forward(model, batch)
        chosen, rejected = outputs[0][0::2], outputs[0][1::2]
        losses = bradley_terry_losses(
            chosen,
            rejected,
            margin=batch["margin"] if self.objective.margin else None,
            smoothing=self.objective.smoothing,
            centering=self.objective.centering,
        )
        gap = chosen - rejected
        sums = {"reward": losses.sum(), "accuracy": (gap > 0).sum(), "reward_gap": gap.sum()}
        sums[CUT] = (batch["cut"][0::2] > 0).sum()
        if "text" in self.weights:
            sums["text"] = self._text_losses(batch, outputs[1]).sum()
        return sums

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = model(**_inputs(batch, "text" in self.weights), rewards=True)
        return outputs

    def _text_losses(self, batch: Batch, losses: Tensor) -> Tensor:
        log_p, reference = _text_log_p(batch, losses), batch["reference"]
        kind, beta = self.objective.text_regularizer, self.objective.text_beta
        assert kind != "none", "the text term has a weight only with a regulariser"
        return text_losses(kind, log_p[0::2], log_p[1::2], beta=beta, reference=(reference[0::2], reference[1::2]))

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """Rewards of the better and of the worse response [B, 2]."""
        batch = self._prepare_inputs(inputs)
        with torch.no_grad():
            rewards = self._forward(model, batch)[0].reshape(-1, 2)
        return None, rewards, torch.zeros_like(rewards[:, 0], dtype=torch.long)


def rewarded(prediction: EvalPrediction) -> dict[str, float]:
    """Figures of held-out pairs. A scalar judge has no orders to disagree; ties count as half right."""
    gap = -np.diff(np.asarray(prediction.predictions).astype(np.float64))[:, 0]
    return {
        "accuracy": float((gap > 0).mean() + 0.5 * (gap == 0).mean()),
        "ece": expected_calibration_error(gap),
        "loss": float(np.logaddexp(0.0, -gap).mean()),
        "reward_gap": float(gap.mean()),
    }


def _final(recipe: RewardRecipe, trainer: RewardTrainer, pairs: Sequence[Pair]) -> list[Judged]:
    if not pairs:
        return []
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="final")
    rewards = np.asarray(output.predictions).astype(np.float64).tolist()
    if trainer.args.should_save:
        write_figures(recipe, {name.removeprefix("final_"): v for name, v in (output.metrics or {}).items()})
        _write_readings(recipe.run_directory / "readings.jsonl", pairs, rewards)
    sure = [sigmoid(better - worse) for better, worse in rewards]
    return [Judged(pair, p, (p, p)) for pair, p in zip(pairs, sure, strict=True)]


def _write_readings(path: Path, pairs: Sequence[Pair], rewards: Sequence[Sequence[float]]) -> None:
    """One line a pair: both responses' rewards, and ``p_first`` = P(a better), in the service's words."""
    rows = []
    for pair, (better, worse) in zip(pairs, rewards, strict=True):
        a, b = (better, worse) if pair.label == "a" else (worse, better)
        rows.append({"id": pair.id, "label": pair.label, "reward_a": a, "reward_b": b, "p_first": sigmoid(a - b)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _export(recipe: RewardRecipe, trainer: RewardTrainer, model: Any, tokenizer: Any, judged: Sequence[Judged]) -> None:
    state = gathered_state(trainer)
    if state is None:
        return
    state = {name: value for name, value in state.items() if "text_head." not in name}
    test = pick_self_test(judged, recipe.output.self_test)
    judge = entry(recipe.output.judge, scalar.FAMILY, int(model.config.max_position_embeddings), 0, test)

    def base() -> Any:
        return load_scalar(recipe.model, recipe.precision, tokenizer)

    def write(directory: Path) -> None:
        save_model(directory, model, state, tokenizer, recipe.output.weights, base)

    write_checkpoint(recipe.output, recipe.version, (judge,), write)


def _require_margins(pairs: Sequence[Pair]) -> None:
    missing = [pair.id for pair in pairs if pair.margin is None]
    if missing:
        raise DataError(
            f"Pair {missing[0]}, field margin: missing (in {len(missing)} of {len(pairs)} pairs); "
            "set objective.margin to false, or use pairs that carry one."
        )
