"""GRAM's second stage (arXiv 2506.14175, section 3.3): which of two responses is better, read off two logits.

One forward of the backbone, then two rows of the output matrix at one position. Both display orders of a pair are
trained, held-out pairs are judged in both orders meanwhile, and what is written is what the service loads.

With ``data.judgments`` the same model also learns to write a judgment before the label (GRAM-R2, arXiv 2509.02492).
`adapt` is this stage on few pairs, from a checkpoint that is a judge already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import TrainerCallback

from service.judging import gram, gram_r2
from service.tokenization import ChatTokenizer
from training.configs import AdaptRecipe, FinetuneRecipe
from training.data.pairs import DataError, Pair
from training.stages.datasets import Interleaved, PairDataset, check_self_test, evaluation_pairs, training_pairs
from training.stages.examples import Example, collate, collate_families
from training.stages.export import Judged, entry, gathered_state, pick_self_test, save_model, write_checkpoint
from training.stages.judging import JudgeTrainer, ReadTerm, Terms
from training.stages.judgments import JudgmentDataset, judgments_of
from training.stages.labels import LabelExamples, common_prefix
from training.stages.models import (
    check_positions,
    load_causal,
    load_tokenizer,
    require_family,
    require_judge,
    with_adapters,
)
from training.stages.reading import make_readable
from training.stages.run import arguments, processes, train, write_figures

JUDGMENT_ROOM = 1.5
"""A served judgment may be this much longer than the longest one that was learned."""


def finetune(
    recipe: FinetuneRecipe | AdaptRecipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> JudgeTrainer:
    """Train, judge the held-out pairs, write the checkpoint. Raises `DataError` and `SaveError`."""
    if recipe.stage == "adapt":
        require_judge(recipe.model.path, recipe.family)
    require_family(recipe.model.path, recipe.family)
    tokenizer = load_tokenizer(recipe.model)
    chat = ChatTokenizer(tokenizer)
    examples = LabelExamples(chat, gram.FAMILY, recipe.objective, recipe.data.max_tokens)
    judgments = _judgments(recipe, chat)
    pairs = training_pairs(recipe.data, recipe.seed, labelled=True, build=examples.rows.row)
    labelled = PairDataset(pairs, examples, recipe.data.swap, recipe.seed)
    dataset: Any = Interleaved(labelled, judgments) if judgments else labelled
    held_out = evaluation_pairs(recipe.data, recipe.evaluation.limit, examples.rows.row)
    check_self_test(recipe.output.self_test, held_out)
    args = arguments(recipe, len(dataset) or processes(), evaluates=bool(held_out))
    model = load_causal(recipe.model, recipe.precision, tokenizer)
    check_positions(model, recipe.data.max_tokens)
    make_readable(model)
    if recipe.model.lora is not None:
        model = with_adapters(model, recipe.model.lora)
    prefixes = _prefixes(recipe, chat)
    trainer = JudgeTrainer(
        recipe,
        _terms(recipe, examples),
        prefixes,
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=_both_orders(held_out, chat, recipe),
        data_collator=_collator(tokenizer.pad_token_id, prefixes),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    train(trainer, resume=resume)
    judged = _final(recipe, trainer, held_out)
    _export(recipe, trainer, model, tokenizer, judged, judgments)
    return trainer


def _terms(recipe: FinetuneRecipe | AdaptRecipe, examples: LabelExamples) -> Terms:
    """The recipe's objective, by kind of read and span. Terms of weight 0 are not computed."""
    objective = recipe.objective
    label = ReadTerm(examples.rows.label_ids, 1.0, objective.smoothing, objective.label_mass_weight)
    verdict = ReadTerm(examples.helpers.verdict_ids, objective.verdict_weight)
    spans = {"judgment": objective.judgment_weight, "chosen": objective.chosen_weight}
    return Terms(
        {"label": label} | ({"verdict": verdict} if objective.verdict_weight else {}),
        {kind: weight for kind, weight in spans.items() if weight},
    )


def _judgments(recipe: FinetuneRecipe | AdaptRecipe, chat: ChatTokenizer) -> JudgmentDataset | None:
    if not isinstance(recipe, FinetuneRecipe) or not recipe.data.judgments:
        return None
    return JudgmentDataset(judgments_of(recipe.data.judgments), chat, recipe.objective, recipe.data.max_tokens)


def _prefixes(recipe: FinetuneRecipe | AdaptRecipe, chat: ChatTokenizer) -> tuple[tuple[int, ...], ...] | None:
    if not recipe.batch.shared_prefix:
        return None
    if processes() > 1:
        raise DataError("batch.shared_prefix runs in one process only; set it to false, or start one process.")
    return common_prefix(chat, gram.FAMILY), common_prefix(chat, gram_r2.FAMILY)


def _collator(pad_id: int, prefixes: tuple[tuple[int, ...], ...] | None) -> Any:
    if prefixes is None:
        return partial(collate, pad_id=pad_id)
    return partial(collate_families, pad_id=pad_id, prefixes=prefixes)


def _both_orders(
    pairs: Sequence[Pair], chat: ChatTokenizer, recipe: FinetuneRecipe | AdaptRecipe
) -> Dataset[Example] | None:
    """Rows 2i and 2i + 1 are the two orders of a pair; without helper terms, which an evaluation does not read."""
    if not pairs:
        return None
    plain = recipe.objective.model_copy(update={"verdict_weight": 0.0, "chosen_weight": 0.0})
    return PairDataset(pairs, LabelExamples(chat, gram.FAMILY, plain, recipe.data.max_tokens), "both")


def _final(recipe: FinetuneRecipe | AdaptRecipe, trainer: JudgeTrainer, pairs: Sequence[Pair]) -> list[Judged]:
    """Judge every held-out pair with the trained weights; figures and single readings go to the run's directory."""
    if not pairs:
        return []
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="final")
    log_odds = np.asarray(output.predictions)[:, 0].astype(np.float64).reshape(-1, 2)
    p_first_shown = 1.0 / (1.0 + np.exp(-log_odds))
    judged = []
    for pair, (p_ab, p_ba) in zip(pairs, p_first_shown.tolist(), strict=True):
        orders = (p_ab, 1.0 - p_ba) if pair.label == "a" else (1.0 - p_ab, p_ba)
        judged.append(Judged(pair, sum(orders) / 2, orders))
    if trainer.args.should_save:
        figures = {name.removeprefix("final_"): v for name, v in (output.metrics or {}).items()}
        write_figures(recipe, figures)
        _write_readings(recipe.run_directory / "readings.jsonl", pairs, p_first_shown.tolist())
    return judged


def _write_readings(path: Path, pairs: Sequence[Pair], readings: Sequence[Sequence[float]]) -> None:
    """One line a pair, in the service's words: ``p_ab`` is P(a better), a first; ``p_ba`` P(b better), b first."""
    rows = (
        {"id": pair.id, "label": pair.label, "p_ab": p_ab, "p_ba": p_ba, "p_first": (p_ab + 1.0 - p_ba) / 2}
        for pair, (p_ab, p_ba) in zip(pairs, readings, strict=True)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _export(
    recipe: FinetuneRecipe | AdaptRecipe,
    trainer: JudgeTrainer,
    model: Any,
    tokenizer: Any,
    judged: Sequence[Judged],
    judgments: JudgmentDataset | None,
) -> None:
    state = gathered_state(trainer)
    if state is None:
        return
    test = pick_self_test(judged, recipe.output.self_test)
    longest = int(model.config.max_position_embeddings)
    entries = [entry(recipe.output.judge, gram.FAMILY, longest - 1, 0, test)]
    if judgments is not None:
        room = min(int(judgments.longest * JUDGMENT_ROOM), longest // 2)
        entries.append(entry(f"{recipe.output.judge}-r2", gram_r2.FAMILY, longest - room, room, test))

    def base() -> Any:
        return load_causal(recipe.model, recipe.precision, tokenizer)

    def write(directory: Path) -> None:
        save_model(directory, model, state, tokenizer, recipe.output.weights, base)

    write_checkpoint(recipe.output, recipe.version, tuple(entries), write)
