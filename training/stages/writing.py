"""The one stage that learns to write: rationales with their label (`reason`), traces (`distill`), proofs (`prove`).

Ordinary supervised fine-tuning: next-token loss of the text and of the token that ends it, given the prompt. GRAM-R2's
objective, -log p(z | s) - log p(l | s, z) (arXiv 2509.02492), is just that, as the label stands at the end of the text;
so is RM-R1's distillation (arXiv 2505.02387, section 3.2), and the prover's with the label in the prompt.

A judge is rendered by its own family's file and writes held-out judgments while it is trained: share of texts with a
verdict, accuracy, the probability on the verdict letters. What is written out is what the service loads.

Left out: packing (see `pretrain`), and any reward for form: a text that the service's parser does not read as the
pair's own label is refused before training begins.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from service.judging.base import PairwiseFamily, require_pairwise
from service.judging.registry import get_family
from service.manifest import JudgeEntry
from service.tokenization import ChatTokenizer
from training.data.judgments import read_judgments
from training.data.pairs import DataError, Pair
from training.data.writing import read_texts
from training.stages.datasets import check_self_test, drawn, evaluation_pairs
from training.stages.examples import Example, collate, collate_families
from training.stages.export import Judged, entry, gathered_state, pick_self_test, save_model, write_checkpoint
from training.stages.models import check_positions, load_causal, load_tokenizer, with_adapters
from training.stages.reading import make_readable
from training.stages.run import arguments, processes, train, write_figures
from training.stages.texts import JudgmentRows, PairPrompts, PromptRows, WritingRows
from training.stages.writers import TextTrainer, Writer, WritingJudgeTrainer, judged_pairs
from training.writing_configs import DistillRecipe, ProveRecipe, ReasonRecipe, WritingRecipe

log = logging.getLogger(__name__)

ROOM = 1.5
"""A served judgment may be this much longer than the longest one that was learned."""
LEFT_OUT = "left_out.json"


def learn_to_write(
    recipe: WritingRecipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> TextTrainer:
    """Train, evaluate, write the checkpoint. Raises `DataError`, `SaveError` and `TrainingDiverged`."""
    tokenizer = load_tokenizer(recipe.model)
    chat = ChatTokenizer(tokenizer)
    rows = _rows(recipe, chat)
    pairs = [] if isinstance(recipe, ProveRecipe) else evaluation_pairs(recipe.data, recipe.evaluation.limit)
    check_self_test(recipe.output.self_test, pairs)
    args = arguments(recipe, len(rows), evaluates=bool(recipe.data.evaluation))
    _say_left_out(recipe, rows, args.should_save)
    model = load_causal(recipe.model, recipe.precision, tokenizer)
    check_positions(model, recipe.data.max_tokens)
    make_readable(model)
    writer = _writer(recipe, model, tokenizer, chat, rows)
    if recipe.model.lora is not None:
        model = with_adapters(model, recipe.model.lora)
    prefixes = _prefixes(recipe, rows)
    options: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": rows,
        "eval_dataset": _held_out(recipe, chat, writer, pairs, int(model.config.max_position_embeddings)),
        "data_collator": _collator(tokenizer.pad_token_id, prefixes),
        "processing_class": tokenizer,
        "callbacks": list(callbacks),
    }
    if writer is None:
        trainer = TextTrainer(recipe, prefixes, tokenizer.pad_token_id, **options)
    else:
        trainer = WritingJudgeTrainer(recipe, prefixes, writer, **options)
    train(trainer, resume=resume)
    judged = _final(recipe, trainer, pairs)
    _export(recipe, trainer, model, tokenizer, writer, judged)
    return trainer


def family_of(recipe: ReasonRecipe | DistillRecipe) -> PairwiseFamily:
    """The family and the prompt of it that the recipe names. Raises `StartupError` for a prompt it does not have."""
    return require_pairwise(get_family(recipe.family, recipe.template or None))


def _rows(recipe: WritingRecipe, chat: ChatTokenizer) -> WritingRows:
    files = map(Path, recipe.data.train)
    rows: WritingRows
    if isinstance(recipe, ProveRecipe):
        texts = drawn(list(chain.from_iterable(map(read_texts, files))), recipe.data.limit, recipe.seed)
        rows = PromptRows(texts, chat, recipe.data.max_tokens)
    else:
        judgments = drawn(list(chain.from_iterable(map(read_judgments, files))), recipe.data.limit, recipe.seed)
        rows = JudgmentRows(judgments, chat, family_of(recipe), recipe.data.max_tokens)
    if not len(rows):
        raise DataError(f"No row fits data.max_tokens = {recipe.data.max_tokens}; raise it, or shorten the texts.")
    return rows


def _say_left_out(recipe: WritingRecipe, rows: WritingRows, should_save: bool) -> None:
    """Rows that are not trained on are counted in the log and listed in the run's directory."""
    if not rows.left_out or not should_save:
        return
    recipe.run_directory.mkdir(parents=True, exist_ok=True)
    path = recipe.run_directory / LEFT_OUT
    path.write_text(json.dumps({"longer_than": recipe.data.max_tokens, "ids": rows.left_out}, indent=1) + "\n", "utf-8")
    log.warning(
        "%d of %d rows are longer than data.max_tokens = %d and left out; %s lists them.",
        len(rows.left_out),
        len(rows.left_out) + len(rows),
        recipe.data.max_tokens,
        path,
    )


def _writer(
    recipe: WritingRecipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatTokenizer,
    rows: WritingRows,
) -> Writer | None:
    if isinstance(recipe, ProveRecipe):
        return None
    positions = int(model.config.max_position_embeddings)
    most = recipe.output.max_rationale_tokens or min(int(rows.longest * ROOM), positions // 2)
    if most >= positions:
        raise DataError(f"output.max_rationale_tokens = {most} is not less than the model's {positions} positions.")
    return Writer(family_of(recipe), chat, most, int(tokenizer.pad_token_id))


def _prefixes(recipe: WritingRecipe, rows: WritingRows) -> tuple[tuple[int, ...], ...] | None:
    if not recipe.batch.shared_prefix:
        return None
    if processes() > 1:
        raise DataError("batch.shared_prefix runs in one process only; set it to false, or start one process.")
    return (rows.common_prefix(),)


def _collator(pad_id: int, prefixes: tuple[tuple[int, ...], ...] | None) -> Any:
    if prefixes is None:
        return partial(collate, pad_id=pad_id)
    return partial(collate_families, pad_id=pad_id, prefixes=prefixes)


def _held_out(
    recipe: WritingRecipe, chat: ChatTokenizer, writer: Writer | None, pairs: Sequence[Pair], positions: int
) -> Dataset[Example] | None:
    if not recipe.data.evaluation:
        return None
    if writer is not None:
        return PairPrompts(pairs, chat, writer.family, min(recipe.data.max_tokens, positions - writer.most))
    texts = list(read_texts(Path(recipe.data.evaluation)))[: recipe.evaluation.limit]
    return PromptRows(texts, chat, recipe.data.max_tokens)


def _final(recipe: WritingRecipe, trainer: TextTrainer, pairs: Sequence[Pair]) -> list[Judged]:
    """The held-out rows once more with the trained weights; the figures go to the run's directory."""
    if trainer.eval_dataset is None:
        return []
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="final")
    if trainer.args.should_save:
        write_figures(recipe, {name.removeprefix("final_"): v for name, v in (output.metrics or {}).items()})
    return judged_pairs(pairs, output.predictions, output.label_ids) if pairs else []


def _export(
    recipe: WritingRecipe,
    trainer: TextTrainer,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    writer: Writer | None,
    judged: Sequence[Judged],
) -> None:
    state = gathered_state(trainer)
    if state is None:
        return
    entries: tuple[JudgeEntry, ...] = ()
    if writer is not None:
        test = pick_self_test(judged, recipe.output.self_test)
        longest = int(model.config.max_position_embeddings)
        entries = (entry(recipe.output.judge, writer.family, longest - writer.most, writer.most, test),)

    def base() -> Any:
        return load_causal(recipe.model, recipe.precision, tokenizer)

    def write(directory: Path) -> None:
        save_model(directory, model, state, tokenizer, recipe.output.weights, base)

    write_checkpoint(recipe.output, recipe.version, entries, write)
