"""Every named recipe: it loads, what it says is what its source says, and what it needs fits where it is to run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.source import ROOT
from tests.support.presets import GIVEN, changes_for
from training.commands import stage_recipe
from training.data.pairs import DataError
from training.estimate import GB, memory, time
from training.planning import Machine, estimate_lines, machine_for, plan, recipe_text, shape_of
from training.planning_picture import draw_memory, table
from training.presets import STAGES, merged, names, resolve, toml_text
from training.recipe_files import load_recipe
from training.writing_configs import GrpoRecipe

OPEN = ("batch.rows", "data.max_tokens", "schedule.kind", "schedule.warmup", "optimizer.weight_decay")


def test_each_preset_has_the_backbones_and_stages_of_its_source() -> None:
    """GRAM's paper has baselines and adaptations as well; RM-R1 distils its instruct models alone."""
    assert len(names()) == len(set(names())) == (2 * 6 * 2 + 6 * 2) + (3 + 6)
    assert "rm-r1/r1-distill-qwen-7b/distill" not in names() and "rm-r1/qwen2.5-32b/distill" in names()
    assert {name.split("/")[2] for name in names() if name.startswith("gram-released/")} == {"pretrain", "finetune"}
    assert "gram-paper/llama-3.1-8b/pretrain" in names()
    assert "gram-released/qwen3-14b/finetune" in names()


@pytest.mark.parametrize("name", names())
def test_each_is_a_recipe_that_is_written_out_and_read_back(name: str, tmp_path: Path) -> None:
    named = resolve(name, changes_for(name))
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_text(named, Machine(), str(file)), encoding="utf-8")
    assert load_recipe(file) == named.recipe()
    assert tomllib.loads(toml_text(named.fields)) == named.fields


@pytest.mark.parametrize("name", names())
def test_each_fits_where_it_is_planned_to_run(name: str) -> None:
    named = resolve(name, changes_for(name))
    machine = machine_for(named, Machine())
    run = plan(named.recipe(), named.architecture, named.expected, machine)
    need = memory(run)
    assert need.states == pytest.approx(16 * named.architecture.parameter_count / machine.gpus)
    assert need.total < 80 * GB
    text = recipe_text(named, Machine(), "x.toml")
    assert f"{need.total / GB:.1f} GB" in text
    assert f"{time(run).hours:.1f} h" in text
    assert f"-m training {named.stage} x.toml" in text
    (config,) = re.findall(r"--config_file (\S+)", text)
    assert (ROOT / config).is_file()


@pytest.mark.parametrize(
    ("name", "rate", "rows", "epochs", "alpha"),
    [
        ("gram-released/qwen3-8b/pretrain", 1e-5, 256, 1, None),
        ("gram-released/qwen3-8b/finetune", 2e-5, 128, 2, 0.05),
        ("gram-paper/llama-3.1-8b/pretrain", 2e-5, 256, 1, None),
        ("gram-paper/llama-3.1-8b/finetune", 1e-5, 256, 1, 0.05),
        ("gram-paper/llama-3.1-8b/reward", 1e-5, 256, 1, 0.0),
        ("rm-r1/qwen2.5-7b/distill", 5e-6, 128, 1, None),
        ("rm-r1/qwen2.5-14b/distill", 3e-6, 128, 1, None),
        ("rm-r1/qwen2.5-32b/distill", 2e-6, 128, 1, None),
        ("rm-r1/qwen2.5-7b/grpo", 1e-6, 896, 1, None),
        ("rm-r1/qwen2.5-14b/grpo", 7e-7, 896, 1, None),
        ("rm-r1/qwen2.5-32b/grpo", 5e-7, 896, 1, None),
        ("rm-r1/r1-distill-qwen-14b/grpo", 1e-6, 896, 1, None),
        ("rm-r1/r1-distill-qwen-32b/grpo", 8e-7, 896, 1, None),
    ],
)
def test_the_numbers_of_the_sources(name: str, rate: float, rows: int, epochs: int, alpha: float | None) -> None:
    """Learning rates of paper and scripts are the other way round; alpha is half of PyTorch's epsilon 0.1."""
    recipe = resolve(name, changes_for(name)).recipe()
    assert (recipe.optimizer.learning_rate, recipe.batch.rows, recipe.schedule.epochs) == (rate, rows, epochs)
    assert getattr(recipe.objective, "smoothing", None) == alpha


def test_stage_two_starts_from_what_stage_one_leaves() -> None:
    first, second = (resolve(f"gram-released/qwen3-4b/{stage}").recipe() for stage in ("pretrain", "finetune"))
    assert first.model.path == "Qwen/Qwen3-4B"
    assert second.model.path == first.output.directory != second.output.directory
    name = "gram-paper/qwen3-4b"
    judge, adapted, baseline = (resolve(f"{name}/{s}", changes_for(f"{name}/{s}")).recipe() for s in STAGES[1:4])
    assert adapted.model.path == judge.output.directory
    assert baseline.model.path == "Qwen/Qwen3-4B"


def test_rm_r1_is_the_papers() -> None:
    """Group 7 at temperature 1, eight updates a rollout, KL 1e-3, clip 0.2; a reasoner starts from the hub, with its
    own prompt; 62 rollouts of 1,024 prompts."""
    instruct, reasoner = (resolve(f"rm-r1/{b}/grpo").recipe() for b in ("qwen2.5-32b", "r1-distill-qwen-32b"))
    assert isinstance(instruct, GrpoRecipe) and isinstance(reasoner, GrpoRecipe)
    rollout = instruct.rollout
    assert (rollout.prompts, rollout.group, rollout.temperature, rollout.max_tokens) == (1024, 7, 1.0, 8192)
    assert (instruct.objective.kl, instruct.objective.clip, instruct.updates) == (1e-3, 0.2, 8)
    before = "rm-r1/qwen2.5-32b/distill"
    assert instruct.model.path == resolve(before, changes_for(before)).recipe().output.directory
    assert (reasoner.model.path, reasoner.template) == ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "reasoner")
    assert total_rollouts(instruct, 64_000) == 62
    named = resolve("rm-r1/qwen2.5-32b/grpo")
    text = recipe_text(named, Machine(), "x.toml")
    assert "--num_processes 32 --num_machines 4" in text and "h of them writing" in text
    run = plan(named.recipe(), named.architecture, named.expected, machine_for(named, Machine()))
    assert run.samples == 7 * 64_000 and 0 < time(run).sampling_hours < time(run).hours
    assert memory(run).engine == pytest.approx(0.4 * 80 * GB)


def total_rollouts(recipe: GrpoRecipe, pairs: int) -> int:
    from training.stages.grpo import total_updates

    return total_updates(recipe, pairs) // recipe.updates


def test_an_adaptation_is_launched_as_a_curve_and_a_text_term_is_counted() -> None:
    name = "gram-paper/llama-3.1-8b/adapt"
    assert "-m training adapt x.toml --sizes\n" in recipe_text(resolve(name, changes_for(name)), Machine(), "x.toml")
    assert "# optimizer.learning_rate = ?" in recipe_text(resolve(name), Machine(), "x.toml")
    name = "gram-paper/llama-3.1-8b/reward"
    needs = []
    for kind in ("none", "dpo"):
        named = resolve(name, (*changes_for(name), f"objective.text_regularizer={kind}"))
        needs.append(memory(plan(named.recipe(), named.architecture, named.expected, Machine())).logits)
    assert needs[0] < 1e6 < 1e9 < needs[1]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_the_paper_leaves_open_must_be_given(stage: str) -> None:
    named = resolve(f"gram-paper/llama-3.2-3b/{stage}")
    assert named.unset == OPEN
    with pytest.raises(DataError, match=r"does not state batch\.rows.*--set batch\.rows="):
        named.recipe()
    assert "# batch.rows = ?" in recipe_text(named, Machine(), "x.toml")
    almost = resolve(named.name, GIVEN[1:])
    with pytest.raises(DataError, match=r"does not state batch\.rows; give them: --set batch\.rows=\.\.\.$"):
        almost.recipe()


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("gram-paper/gpt-2/pretrain", (), "There is no recipe gram-paper/gpt-2/pretrain"),
        ("gram-paper", (), "PRESET/BACKBONE/STAGE"),
        ("gram-released/qwen3-8b/finetune", ("batch.rows",), "must be KEY=VALUE"),
    ],
)
def test_a_wrong_name_or_change_says_what_would_be_right(name: str, changes: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        resolve(name, changes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [("batch.raws=3", r"batch\.raws"), ("batch.rows=-1", r"batch\.rows"), ("objective.smoothing=0.5", "smoothing")],
)
def test_a_change_is_checked_like_a_recipe(change: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        resolve("gram-released/qwen3-8b/finetune", (change,)).recipe()


def test_changes_keep_their_type_and_words_are_texts() -> None:
    named = resolve(
        "gram-released/qwen3-8b/finetune",
        ("data.train=['a.jsonl', 'b.jsonl']", "schedule.kind=linear", "seed=7", "output.runs=elsewhere/runs"),
    )
    recipe = named.recipe()
    assert recipe.data.train == ("a.jsonl", "b.jsonl")
    assert (recipe.schedule.kind, recipe.seed, recipe.output.runs) == ("linear", 7, "elsewhere/runs")


def test_tables_are_joined_key_by_key() -> None:
    assert merged({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}


def test_rows_that_cannot_be_shared_out_are_told_before_the_run() -> None:
    named = resolve("gram-released/qwen3-8b/finetune", ("batch.rows=100",))
    with pytest.raises(DataError, match="not a multiple"):
        plan(named.recipe(), named.architecture, named.expected, Machine())


@pytest.mark.parametrize("precision", ["weights=bfloat16", "compute=float32"])
def test_what_the_estimate_does_not_cover_is_refused(precision: str) -> None:
    named = resolve("gram-released/qwen3-8b/finetune", (f"precision.{precision}",))
    with pytest.raises(DataError, match="float32 weights and bfloat16 products"):
        plan(named.recipe(), named.architecture, named.expected, Machine())


@pytest.mark.parametrize(
    ("changes", "sequences"),
    [
        ((), 2 * 65_000),
        (("data.swap=both",), 2 * 2 * 65_000),
        (("data.limit=1000",), 2 * 1000),
        (("schedule.steps=10", "data.swap=both"), 10 * 128),
    ],
)
def test_sequences_are_counted_as_they_will_be_run(changes: tuple[str, ...], sequences: int) -> None:
    """Two epochs of 65,000 pairs; both orders are two sequences; a schedule in steps counts its own rows."""
    named = resolve("gram-released/qwen3-8b/finetune", changes)
    run = plan(named.recipe(), named.architecture, named.expected, Machine())
    assert time(run).tokens == sequences * 1150


def test_the_picture_shows_every_kind_of_sharding(tmp_path: Path) -> None:
    named = resolve("gram-released/qwen3-14b/finetune")
    run = plan(named.recipe(), named.architecture, named.expected, Machine())
    needs = table(run)
    assert list(needs) == ["none", "zero1", "zero2", "zero3", "fsdp2"]
    assert needs["fsdp2"] == memory(run)
    draw_memory(run, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_a_card_that_is_too_small_is_told() -> None:
    named = resolve("gram-released/qwen3-14b/finetune")
    machine = Machine(gpu="A100-40GB", gpus=4, sharding="zero2")
    lines = "\n".join(estimate_lines(plan(named.recipe(), named.architecture, named.expected, machine), machine))
    assert "does NOT fit" in lines


def test_the_backbone_of_a_file_is_found_or_asked_for(tmp_path: Path) -> None:
    from service.settings import demo_model

    recipe = resolve("gram-released/qwen3-8b/pretrain").recipe()
    assert shape_of(recipe.model).hidden_size == 4096
    demo = shape_of(recipe.model.model_copy(update={"path": str(demo_model())}))
    assert demo.parameter_count == pytest.approx(3.67e6, rel=0.01)
    with pytest.raises(DataError, match="--backbone"):
        shape_of(recipe.model.model_copy(update={"path": str(tmp_path)}))


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments], capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.slow
def test_the_commands_print_what_they_promise(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    written = _command("recipe", "show", "gram-released/qwen3-8b/finetune", "--set", "seed=9", "--output", str(file))
    assert written.returncode == 0, written.stderr
    assert load_recipe(file).seed == 9
    told = _command("estimate", str(file), "--pairs", "1000", "--mean-tokens", "900", "--backbone", "qwen3-8b")
    assert "16.4 GB" in told.stdout, told.stderr
    refused = _command("estimate", "gram-paper/qwen3-8b/finetune")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: gram-paper/qwen3-8b/finetune: arXiv 2506.14175 does not state batch.rows")


def test_a_stage_takes_a_name() -> None:
    """It is resolved like a file, and asks first for what is missing."""

    def loaded(name: str) -> Any:
        return stage_recipe.load(Namespace(recipe=Path(name), output=None), "pretrain")

    assert loaded("gram-released/qwen3-8b/pretrain") == resolve("gram-released/qwen3-8b/pretrain").recipe()
    with pytest.raises(DataError, match=r"does not state batch\.rows"):
        loaded("gram-paper/qwen3-8b/pretrain")
    with pytest.raises(DataError, match="is a recipe for finetune"):
        loaded("gram-released/qwen3-8b/finetune")
