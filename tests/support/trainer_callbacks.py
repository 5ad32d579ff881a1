"""Callbacks that end a run the hard way, or look at its first step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback


class Interrupt(TrainerCallback):
    """Ends a run the hard way after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Gradients(TrainerCallback):
    """The gradient of the first optimizer step, after clipping."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.found:
            named = kwargs["model"].named_parameters()
            self.found = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}
