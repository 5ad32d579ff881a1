"""Muon for matrices and AdamW for the rest, as one optimizer: what trains small transformers from nothing quickest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from training.configs import OptimizerSection


class MuonWithAdamW(Optimizer):
    """Two optimizers that step, rest and are saved together; a schedule sees the parameter groups of both."""

    def __init__(self, model: nn.Module, settings: OptimizerSection) -> None:
        assert settings.matrix_learning_rate is not None, "recipes with muon name the rate"
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if _is_inner_matrix(name, p)]
        others = [p for name, p in named if not _is_inner_matrix(name, p)]
        decay, rate = settings.weight_decay, settings.matrix_learning_rate
        self.parts: tuple[Optimizer, Optimizer] = (
            Muon(matrices, lr=rate, weight_decay=decay),
            AdamW(others, lr=settings.learning_rate, betas=settings.betas, weight_decay=0.0),
        )
        super().__init__([{"params": [p for _, p in named]}], {})
        self._share_groups()

    def step(self, closure: Any = None) -> None:
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.parts[0].state_dict(), "adamw": self.parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, name in zip(self.parts, ("muon", "adamw"), strict=True):
            part.load_state_dict(state_dict[name])
        self._share_groups()

    def _share_groups(self) -> None:
        """The parts' own groups, not copies: a schedule that sets a rate here sets it there."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _is_inner_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
