"""GRAM's first stage (arXiv 2506.14175, section 3.2): write both responses, given the prompt. No label is used.

Left out: packing, which needs attention kernels that keep rows apart. Micro-batches hold rows of like length instead
(`training.stages.sampling`), which leaves 1 % of padding on public preference data. The loss is over response tokens
only, and their logits exist for a thousand positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import TrainerCallback

from service.tokenization import ChatTokenizer
from training.configs import PretrainRecipe
from training.data.pairs import Pair
from training.data.rows import PretrainRows
from training.stages.datasets import PairDataset, training_pairs
from training.stages.examples import Example, collate, response_example
from training.stages.export import gathered_state, save_model, write_checkpoint
from training.stages.judging import JudgeTrainer, Terms
from training.stages.models import check_positions, load_causal, load_tokenizer, with_adapters
from training.stages.reading import make_readable
from training.stages.run import arguments, train


def pretrain(
    recipe: PretrainRecipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> JudgeTrainer:
    """Train and write the checkpoint that `finetune` starts from. Raises `DataError` and `SaveError`."""
    tokenizer = load_tokenizer(recipe.model)
    rows = PretrainRows(ChatTokenizer(tokenizer), recipe.data.max_tokens)
    pairs = training_pairs(recipe.data, recipe.seed, labelled=False, build=rows.row)

    def build(pair: Pair, swapped: bool) -> Example:
        return response_example(rows.row(pair, swapped=swapped))

    dataset = PairDataset(pairs, build, recipe.data.swap, recipe.seed)
    args = arguments(recipe, len(dataset), evaluates=False)
    model = load_causal(recipe.model, recipe.precision, tokenizer)
    check_positions(model, recipe.data.max_tokens)
    make_readable(model)
    if recipe.model.lora is not None:
        model = with_adapters(model, recipe.model.lora)

    trainer = JudgeTrainer(
        recipe,
        Terms(spans={"responses": 1.0}),
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    train(trainer, resume=resume)
    _export(recipe, trainer, model, tokenizer)
    return trainer


def _export(recipe: PretrainRecipe, trainer: JudgeTrainer, model: Any, tokenizer: Any) -> None:
    """No judge.json: what stage 1 makes cannot judge yet."""
    state = gathered_state(trainer)
    if state is None:
        return

    def base() -> Any:
        return load_causal(recipe.model, recipe.precision, tokenizer)

    def write(directory: Any) -> None:
        save_model(directory, model, state, tokenizer, recipe.output.weights, base)

    write_checkpoint(recipe.output, recipe.version, (), write)
