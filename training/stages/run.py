"""What every stage does around its own lines: arguments for the trainer, resuming, the last evaluation."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainingArguments, set_seed
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_utils import get_last_checkpoint

from training.configs import OptimizerSection, ScheduleSection, StageRecipe
from training.data.pairs import DataError
from training.evaluation.curves import draw_curves
from training.stages.datasets import check_enough
from training.stages.saving import check_replaceable, remove_parts
from training.stages.states import HISTORY

log = logging.getLogger(__name__)

_KINDS = {"constant": "constant_with_warmup", "trapezoid": "warmup_stable_decay"}


def processes() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Does this process write what all of them made?"""
    return int(os.environ.get("RANK", "0")) == 0


def total_steps(schedule: ScheduleSection, rows: int, rows_per_step: int) -> int:
    """Optimizer steps of the run; an epoch's last step may be a smaller one."""
    return schedule.steps or max(1, math.ceil(schedule.epochs * math.ceil(rows / rows_per_step)))


def arguments(recipe: StageRecipe, rows: int, *, evaluates: bool) -> TrainingArguments:
    """The recipe in the Trainer's words; fresh weights are drawn by its seed from here on.

    Raises `DataError` for batches that cannot be divided among processes, a tracker that is not there, and an output
    that cannot be written.
    """
    steps = total_steps(recipe.schedule, rows, recipe.batch.rows)
    options = settings(recipe, steps, evaluates=evaluates)
    check_enough(rows, processes())
    args = TrainingArguments(
        **options,
        label_names=[],
    )
    shard_on_cpu(args)
    return args


def settings(recipe: StageRecipe, steps: int, *, evaluates: bool) -> dict[str, Any]:
    """What every kind of trainer is told, by its name in the library. Raises `DataError` as `arguments` does."""
    _check_tracker(recipe.tracker.name)
    if is_main_process():
        check_replaceable(Path(recipe.output.directory))
    set_seed(recipe.seed)
    accumulation = recipe.batch.accumulation(processes())
    directory = recipe.run_directory
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(directory / "curves")
    periodic = evaluates and recipe.evaluation.every > 0
    return {
        "output_dir": str(directory),
        "per_device_train_batch_size": recipe.batch.rows_per_device,
        "per_device_eval_batch_size": recipe.evaluation.rows_per_device,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        **_rates(recipe.optimizer),
        "lr_scheduler_type": _KINDS.get(recipe.schedule.kind, recipe.schedule.kind),
        "lr_scheduler_kwargs": _decay(recipe.schedule, steps),
        "warmup_steps": math.ceil(recipe.schedule.warmup * steps),
        "bf16": recipe.precision.compute == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": recipe.model.gradient_checkpointing,
        "eval_strategy": "steps" if periodic else "no",
        "eval_steps": recipe.evaluation.every or None,
        "save_steps": recipe.output.save_every,
        "save_total_limit": recipe.output.keep,
        "logging_steps": recipe.tracker.every,
        "report_to": [] if recipe.tracker.name == "none" else [recipe.tracker.name],
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "dataloader_num_workers": recipe.data.workers,
        "remove_unused_columns": False,
    }


def shard_on_cpu(args: TrainingArguments) -> None:
    """accelerate turns FSDP on for GPUs only; gloo carries it as well, so the sharded path runs without one."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    state = args.distributed_state
    if asked and state is not None and state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_XPU  # any kind that may become FSDP; the device stays the CPU


def _check_tracker(name: str) -> None:
    if name == "none":
        return
    if name not in INTEGRATION_TO_CALLBACK:
        known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise DataError(f"tracker.name = {name}: there is none of that name; name one of {known}, or none.")
    if name not in get_available_reporting_integrations():
        raise DataError(
            f"tracker.name = {name}: its package is not installed; install it, or name tensorboard or none."
        )


def _rates(optimizer: OptimizerSection) -> dict[str, float]:
    return {
        "learning_rate": optimizer.learning_rate,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.clip_norm,
    }


def _decay(schedule: ScheduleSection, steps: int) -> dict[str, Any]:
    if schedule.kind != "trapezoid":
        return {}
    return {"num_decay_steps": steps - int(schedule.decay_from * steps), "decay_type": "linear"}


def train(trainer: Any, *, resume: bool) -> None:
    """Run the training loop, from the last saved state if asked to; nothing to train on leaves the weights as they are.

    Raises `DataError` when there is no state to go on from.
    """
    if not len(trainer.train_dataset):
        _shard_untrained(trainer)
        return
    runs = Path(trainer.args.output_dir)
    state = get_last_checkpoint(str(runs)) if runs.is_dir() else None
    if resume and state is None:
        raise DataError(f"{runs} holds no saved state to go on from; start without --resume.")
    if state and not resume:
        log.warning("%s holds the state of an earlier run; --resume would go on from it.", runs)
    if trainer.args.should_save:
        remove_parts(runs)
    trainer.train(resume_from_checkpoint=state if resume else None)
    if trainer.args.should_save:
        trainer.write_history()
        if trainer.args.report_to:
            draw_curves([runs / HISTORY], runs / "curves.png")


def _shard_untrained(trainer: Any) -> None:
    """What the training loop does first, for a run of no pairs: FSDP2 shards a model with its optimizer only."""
    if trainer.is_fsdp_enabled:
        trainer.create_optimizer()
        trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = trainer.model


def leave_together() -> None:
    """Wait for the process that writes the checkpoint, then part in order.

    A process that left while its peers were still at work has been seen to abort in the collective library's threads,
    and torchrun ends all processes when one ends badly: the main one, too, in the middle of writing.
    """
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


def write_figures(recipe: StageRecipe, figures: dict[str, float]) -> None:
    """The run's last evaluation, as ``final.json`` beside its history; how long it took is left out."""
    figures = {n: v for n, v in figures.items() if not n.endswith(("runtime", "_per_second", "preparation_time"))}
    recipe.run_directory.mkdir(parents=True, exist_ok=True)
    path = recipe.run_directory / "final.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    log.info("final: %s", ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
