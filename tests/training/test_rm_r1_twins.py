"""RM-R1's recipes on a backbone of Qwen2's architecture small enough for a CPU: their settings, not their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.manifest import Manifest
from tests.support.presets import changes_for
from tests.support.tiny_training import pairs, tiny_backbone, write_data
from training.data.judgments import WrittenJudgment, write_judgments
from training.presets import merged, resolve
from training.recipe_files import Recipe
from training.stages.grpo import grpo
from training.stages.writing import learn_to_write

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")]


def _twin(name: str, directory: Path, start: Path, **changes: Any) -> tuple[Any, Any]:
    """The recipe, and its twin."""
    named = resolve(name, (*changes_for(name), "output.max_rationale_tokens=8"))
    small = {
        "model": {"path": str(start)},
        "schedule": {"steps": 2},
        "precision": {"compute": "float32"},
        "evaluation": {"every": 0, "limit": 1},
        "output": {"directory": str(directory / named.stage), "runs": str(directory / "runs")},
        "tracker": {"name": "none", "every": 1},
        **changes,
    }
    return named.recipe(), TypeAdapter(Recipe).validate_python(merged(named.fields, small))


def test_traces_are_distilled_in_the_instruct_prompt(tmp_path: Path) -> None:
    start = tiny_backbone("qwen2", tmp_path / "start", max_position_embeddings=4096)
    rows = [WrittenJudgment(p, "ab", "", "rm_r1") for p in pairs(4)]
    texts = [f"<type>Chat</type>\n<answer>[[{row.letter}]]</answer>" for row in rows]
    taught = [WrittenJudgment(r.pair, "ab", text, "rm_r1") for r, text in zip(rows, texts, strict=True)]
    write_judgments(tmp_path / "traces.jsonl", taught)
    data = {"train": [str(tmp_path / "traces.jsonl")], "max_tokens": 4000}
    batch = {"rows": 2, "rows_per_device": 1}
    large, small = _twin("rm-r1/qwen2.5-7b/distill", tmp_path, start, data=data, batch=batch)
    assert (small.optimizer, small.template) == (large.optimizer, "instruct")
    assert learn_to_write(small).state.global_step == 2
    manifest = Manifest.load(tmp_path / "distill")
    assert manifest is not None
    assert [(entry.family, entry.template) for entry in manifest.judges] == [("rm_r1", "instruct")]


def test_a_reasoner_is_rewarded_in_groups_of_seven(tmp_path: Path) -> None:
    start = tiny_backbone("qwen2", tmp_path / "start")
    data = {"train": list(write_data(tmp_path)["train"]), "max_tokens": 400}
    rollout = {"prompts": 2, "max_tokens": 8, "engine": "transformers"}
    batch = {"rows": 14, "rows_per_device": 7}
    large, small = _twin("rm-r1/r1-distill-qwen-7b/grpo", tmp_path, start, data=data, rollout=rollout, batch=batch)
    assert (small.optimizer, small.objective, small.template) == (large.optimizer, large.objective, "reasoner")
    assert small.rollout.group == large.rollout.group == 7
    trainer = grpo(small)
    logged = [row for row in trainer.state.log_history if "invalid_rate" in row]
    assert [row["reward"] for row in logged] == [-1.0, -1.0], "noise holds no verdict"
    assert all(row["invalid_rate"] == 1.0 and row["frac_reward_zero_std"] == 1.0 for row in logged)
