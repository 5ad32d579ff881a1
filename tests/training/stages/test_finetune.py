"""Stage 2 from end to end at a size of seconds: exact gradients, resuming, and what it leaves for the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.judging import gram
from service.manifest import Manifest
from service.tokenization import ChatTokenizer
from service.types import Comparison
from tests.support.tiny_training import SCRATCH, adapt_recipe, finetune_recipe, pairs, pretrain_recipe
from tests.support.trainer_callbacks import Gradients, Interrupt
from training.data.judgments import WrittenJudgment, write_judgments
from training.stages.finetune import finetune
from training.stages.judging import JudgeTrainer
from training.stages.pretrain import pretrain

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


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


def test_computing_activations_again_changes_no_gradient(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        gradients = Gradients()
        model = {**SCRATCH, "gradient_checkpointing": again, "lora": {"rank": 2}}
        finetune(finetune_recipe(tmp_path, model=model, schedule={"steps": 1}), callbacks=[gradients])
        found.append(gradients.found)
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_goes_on_to_the_same_losses(tmp_path: Path, optimizer: str) -> None:
    """In its second epoch, which draws its own order of rows and sides, with the rows of a step sorted by length."""
    changes: dict[str, Any] = {
        "schedule": {"steps": 6, "kind": "cosine", "warmup": 0.2},
        "batch": {"rows": 16, "rows_per_device": 4},
        "data": {"swap": "random"},
        "optimizer": {"name": optimizer} | ({"matrix_learning_rate": 0.01} if optimizer == "muon" else {}),
    }
    whole, halted = (
        finetune_recipe(tmp_path, version=v, output={"save_every": 2, "directory": str(tmp_path / v)}, **changes)
        for v in ("whole", "halted")
    )
    finetune(whole)
    with pytest.raises(KeyboardInterrupt):
        finetune(halted, callbacks=[Interrupt(5)])
    assert (halted.run_directory / "checkpoint-4").is_dir()
    assert not Path(halted.output.directory).exists(), "half a run leaves no judge"
    finetune(halted, resume=True)
    expected = losses(tmp_path / "runs" / "whole")
    assert len(expected) == 6
    assert losses(tmp_path / "runs" / "halted") == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JudgeTrainer]:
    """Stage 1, then stage 2, long enough to learn what the pairs say."""
    directory = tmp_path_factory.mktemp("trained")
    first = pretrain_recipe(directory, schedule={"steps": 2}, optimizer={"learning_rate": 3e-3})
    pretrain(first)
    second = finetune_recipe(
        directory,
        model={"path": first.output.directory},
        schedule={"steps": 60, "kind": "linear", "warmup": 0.1},
        optimizer={"name": "muon", "learning_rate": 5e-3, "matrix_learning_rate": 0.02},
        batch={"rows": 32, "rows_per_device": 32},
        objective={"label_mass_weight": 0.3},
        evaluation={"every": 30},
    )
    return Path(second.output.directory), finetune(second)


@pytest.mark.slow
def test_it_learns_and_logs_what_a_judge_is_measured_by(trained: tuple[Path, JudgeTrainer]) -> None:
    directory, trainer = trained
    seen = [row for row in trainer.state.log_history if "eval_accuracy" in row]
    assert len(seen) == 2
    assert {"eval_flip_rate", "eval_label_mass", "eval_ece", "eval_accuracy_one_order"} <= seen[-1].keys()
    steps = [row for row in trainer.state.log_history if "label_accuracy" in row]
    assert steps[-1]["label"] < 0.6 * steps[0]["label"]
    final = json.loads((directory.parent / "runs" / "finetune" / "final.json").read_text("utf-8"))
    assert final["accuracy"] >= 0.8
    assert final["label_mass"] > 0.5


@pytest.mark.slow
def test_tensorboard_shows_what_is_watched(tmp_path: Path) -> None:
    """Losses and accuracy of each step; accuracy, flips, label mass and calibration of held-out pairs; a picture."""
    recipe = finetune_recipe(tmp_path, tracker={"name": "tensorboard", "every": 1}, evaluation={"every": 2})
    finetune(recipe)
    seen = EventAccumulator(str(recipe.run_directory / "curves")).Reload()
    held_out = {"accuracy", "accuracy_one_order", "flip_rate", "label_mass", "ece", "loss"}
    assert {f"eval/{name}" for name in held_out} | {"train/loss", "train/label_accuracy"} <= set(seen.Tags()["scalars"])
    assert [event.step for event in seen.Scalars("eval/flip_rate")] == [2, 4]
    assert [event.step for event in seen.Scalars("train/loss")] == [1, 2, 3, 4]
    assert (recipe.run_directory / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_manifest_names_a_pair_the_judge_gets_right(trained: tuple[Path, JudgeTrainer]) -> None:
    manifest = Manifest.load(trained[0])
    assert manifest is not None
    (judge,) = manifest.judges
    assert (judge.family, judge.labels, judge.max_prompt_tokens) == ("gram", ("A", "B"), 511)
    assert judge.self_test is not None and judge.self_test.min_p > 0.5


@pytest.mark.slow
def test_the_checkpoint_read_back_says_what_training_said(trained: tuple[Path, JudgeTrainer]) -> None:
    """By plain transformers and the service's own prompt, without any of the trainer."""
    directory = trained[0]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(directory))
    labels = chat.label_ids(gram.FAMILY.render(pairs(1)[0].comparison), "", ("A", "B"))
    readings = (directory.parent / "runs" / "finetune" / "readings.jsonl").read_text("utf-8").splitlines()
    for pair, line in zip(pairs(12, seed=2), readings, strict=True):
        said = json.loads(line)
        for shown, key in ((pair.comparison, "p_ab"), (pair.comparison.swap(), "p_ba")):
            assert _p_first(model, chat, labels, shown) == pytest.approx(said[key], abs=1e-5)


def _p_first(model: Any, chat: ChatTokenizer, labels: tuple[int, int], shown: Comparison) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([chat.encode(gram.FAMILY.render(shown))])).logits[0, -1]
    return float(logits[list(labels)].softmax(-1)[0])


@pytest.mark.slow
def test_adapters_are_merged_into_the_checkpoint(trained: tuple[Path, JudgeTrainer], tmp_path: Path) -> None:
    recipe = adapt_recipe(
        tmp_path, model={"path": str(trained[0]), "lora": {"rank": 2}}, optimizer={"learning_rate": 1e-2}
    )
    trainer = finetune(recipe)
    saved = AutoModelForCausalLM.from_pretrained(recipe.output.directory, dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(trained[0], dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        merged, adapted = saved(ids).logits, trainer.model(input_ids=ids).logits
        torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
        assert (merged - before(ids).logits).abs().max() > 1e-3


@pytest.mark.slow
def test_no_pairs_at_all_write_the_starting_judge_again(trained: tuple[Path, JudgeTrainer], tmp_path: Path) -> None:
    recipe = adapt_recipe(tmp_path, model={"path": str(trained[0])}, data={"limit": 0})
    finetune(recipe)
    again = AutoModelForCausalLM.from_pretrained(recipe.output.directory, dtype=torch.float32).state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(trained[0], dtype=torch.float32).state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_shared_prefixes_and_helper_terms_change_no_gradient_of_theirs(tmp_path: Path) -> None:
    """The instruction run once for the whole batch, with judgments and helper terms in it, against the plain way."""
    found = []
    for shared in (False, True):
        gradients = Gradients()
        recipe = finetune_recipe(
            tmp_path,
            version=f"shared-{shared}",
            schedule={"steps": 1},
            batch={"shared_prefix": shared},
            data={"judgments": [str(_judgments(tmp_path))], "shuffle": False},
            objective={"judgment_weight": 2.0, "chosen_weight": 0.3, "verdict_weight": 0.5, "label_mass_weight": 0.1},
        )
        finetune(recipe, callbacks=[gradients])
        found.append(gradients.found)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)
    manifest = Manifest.load(recipe.output.directory)
    assert manifest is not None
    assert [judge.family for judge in manifest.judges] == ["gram", "gram_r2"]


def _judgments(directory: Path) -> Path:
    path = directory / "judgments.jsonl"
    texts = {letter: f"<think>\nIt says so.\n</think>\n<answer>\n{letter}\n</answer>" for letter in "AB"}
    rows = (WrittenJudgment(pair, "ab", texts["A" if pair.label == "a" else "B"]) for pair in pairs(32, seed=5))
    write_judgments(path, rows)
    return path
