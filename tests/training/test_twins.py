"""Both presets run, stage 1 then stage 2, on backbones of their own architecture that are small enough for a CPU.

A twin keeps what makes the preset - rates, schedule, smoothing, orders, recomputation - and changes what makes it
large: the backbone, the data, the batch and the number of steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from transformers import AutoConfig

from service.manifest import Manifest
from tests.support.presets import changes_for
from tests.support.tiny_training import tiny_backbone, write_data
from training.architectures import architectures
from training.presets import Stage, merged, resolve
from training.recipe_files import Recipe
from training.stages.finetune import finetune
from training.stages.pretrain import pretrain
from training.stages.reward import train_reward

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

STEPS = 3


def _twin(name: str, stage: Stage, directory: Path, start: Path) -> Any:
    named = resolve(f"{name}/{stage}", changes_for(f"{name}/{stage}"))
    small = {
        "model": {"path": str(start)},
        "data": write_data(directory),
        "schedule": {"steps": STEPS},
        "batch": {"rows": 8, "rows_per_device": 4},
        "precision": {"compute": "float32"},
        "evaluation": {"every": 0},
        "output": {"directory": str(directory / stage), "runs": str(directory / "runs"), "weights": "float32"},
        "tracker": {"name": "none", "every": 1},
    }
    return TypeAdapter(Recipe).validate_python(merged(named.fields, small))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gram-paper/llama-3.1-8b", "gram-released/qwen3-8b"])
def test_a_twin_of_each_preset_becomes_a_judge(name: str, tmp_path: Path) -> None:
    backbone = architectures()[name.split("/")[1]]
    start = tiny_backbone(backbone.model_type, tmp_path / "backbone")
    first = _twin(name, "pretrain", tmp_path, start)
    big = resolve(f"{name}/pretrain", changes_for(f"{name}/pretrain")).recipe()
    assert first.optimizer == big.optimizer
    assert first.model.gradient_checkpointing
    trained = pretrain(first)
    assert trained.state.global_step == STEPS
    second = _twin(name, "finetune", tmp_path, tmp_path / "pretrain")
    trained = finetune(second)
    losses = [row["loss"] for row in trained.state.log_history if "loss" in row]
    assert len(losses) == STEPS
    assert all(0.0 < loss < 5.0 for loss in losses)
    manifest = Manifest.load(tmp_path / "finetune")
    assert manifest is not None
    assert [entry.family for entry in manifest.judges] == ["gram"]
    assert AutoConfig.from_pretrained(tmp_path / "finetune").model_type == backbone.model_type
    if name.startswith("gram-paper/"):
        _adapted_and_compared(name, tmp_path, start)


def _adapted_and_compared(name: str, directory: Path, start: Path) -> None:
    """The paper's other two stages: the judge on few pairs, and the discriminative baseline."""
    adapted = finetune(_twin(name, "adapt", directory, directory / "finetune"))
    baseline = train_reward(_twin(name, "reward", directory, start))
    assert adapted.state.global_step == baseline.state.global_step == STEPS
    families = [Manifest.load(directory / stage) for stage in ("adapt", "reward")]
    assert [m.judges[0].family for m in families if m is not None] == ["gram", "scalar"]
