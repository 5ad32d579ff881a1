"""What all stages share, on top of transformers' Trainer: exact losses, whole checkpoints, a history.

**Losses.** A stage names its terms; each term of an optimizer step is a sum over everything the step saw - all
micro-batches, all processes - divided by how much there was. So the gradient of four micro-batches is that of one large
batch, also when they hold unequal numbers of tokens, and two processes compute what one would. (A mean handed to the
Trainer as ``compute_loss_func`` is taken for a finished sum and comes out once for every micro-batch.)

States, history and the end of a run whose loss is no number are `WholeStates`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from training.configs import StageRecipe
from training.stages.examples import Batch
from training.stages.optimizers import MuonWithAdamW
from training.stages.sampling import StepSampler
from training.stages.states import WholeStates


class StageTrainer(WholeStates, Trainer):
    """Trainer of a recipe. A stage says what its terms are: `term_sums`, `term_counts`, and ``weights`` of those in the
    loss; terms without a weight are only reported."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, recipe: StageRecipe, weights: Mapping[str, float], names: tuple[str, ...], **options: Any
    ) -> None:
        """``names`` are all terms, reported ones too, in the order of the logs."""
        super().__init__(**options)
        self.recipe = recipe
        self.weights = dict(weights)
        self.names = names
        self._sums = torch.zeros(len(names), dtype=torch.float64)
        self._counts = torch.zeros(len(names), dtype=torch.float64)

    @abstractmethod
    def term_sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sum of each term over a micro-batch."""

    @abstractmethod
    def term_counts(self, batch: Batch) -> dict[str, int]:
        """What each term's sum is divided by: rows, pairs or tokens of a micro-batch."""

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        return StepSampler(self.train_dataset if train_dataset is None else train_dataset, self.recipe)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """The micro-batches of a step, and each term's count over all of them and all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(len(self.names), dtype=torch.float64)
        for batch in batches:
            for name, count in self.term_counts(batch).items():
                counts[self.names.index(name)] += count
        return batches, self._over_processes(counts)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's part of the step's loss; the mean over processes of these parts, summed, is the loss."""
        sums, counts = self.term_sums(model, inputs), self.term_counts(inputs)
        loss = torch.zeros((), device=next(iter(sums.values())).device)
        for name, value in sums.items():
            index = self.names.index(name)
            self._sums[index] += value.detach().double().cpu()
            self._counts[index] += counts[name]
            if name in self.weights:
                loss = loss + self.weights[name] * value / num_items_in_batch[index].item()
        loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.recipe.optimizer.name == "muon" and self.optimizer is None:
            self.optimizer: torch.optim.Optimizer = MuonWithAdamW(model or self.model, self.recipe.optimizer)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        return made

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every term since the last log to the training logs."""
        if "loss" in logs:
            both = self._over_processes(torch.stack([self._sums, self._counts]))
            sums, counts = both[0].tolist(), both[1].tolist()
            logs |= {n: s / c for n, s, c in zip(self.names, sums, counts, strict=True) if c}
            self._sums.zero_()
            self._counts.zero_()
        super().log(logs, start_time)

    def _over_processes(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return values
        kind = torch.float32 if self.args.device.type == "mps" else torch.float64
        reduced: Tensor = self.accelerator.reduce(values.to(self.args.device, kind), reduction="sum")
        return reduced.cpu()
