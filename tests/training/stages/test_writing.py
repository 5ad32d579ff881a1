"""Stages that learn to write, end to end at a size of seconds: what is learned, refused, and left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, EvalPrediction, TrainerCallback

from service.judging import gram_r2
from service.manifest import Manifest
from service.tokenization import ChatTokenizer
from service.types import Message, Rendered
from tests.support.tiny_training import SCRATCH, SHAPE, TOKENIZER, pairs, tables
from tests.support.trainer_callbacks import Gradients, Interrupt
from training.data.judgments import WrittenJudgment, write_judgments
from training.data.pairs import DataError, Pair
from training.data.writing import Text, write_texts
from training.stages.errors import TrainingDiverged
from training.stages.models import load_tokenizer
from training.stages.texts import JudgmentRows
from training.stages.writers import written
from training.stages.writing import learn_to_write
from training.writing_configs import DistillRecipe, ProveRecipe, ReasonRecipe

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def judgment(pair: Pair, order: str = "ab", family: str = "gram_r2") -> WrittenJudgment:
    shown = pair if order == "ab" else pair.swapped
    letter = "A" if shown.label == "a" else "B"
    if family == "gram_r2":
        text = gram_r2.write(f"{letter} says good.", f"{letter} is good.", f"{letter} wins.", letter)  # type: ignore[arg-type]
    else:
        text = f"<type>Chat</type>\n<eval>{letter} is good.</eval>\n<answer>[[{letter}]]</answer>"
    return WrittenJudgment(pair, order, text, family)  # type: ignore[arg-type]


def write_rows(path: Path, n: int = 48, family: str = "gram_r2") -> str:
    rows = [judgment(p, "ab" if i % 2 else "ba", family) for i, p in enumerate(pairs(n))]
    write_judgments(path, rows)
    return str(path)


def reason_recipe(directory: Path, **changes: Any) -> ReasonRecipe:
    train = changes.pop("train", None) or write_rows(directory / "judgments.jsonl")
    data = {"train": (train,), "swap": "none", **changes.pop("data", {})}
    return ReasonRecipe.model_validate(tables(directory, "reason", data=data, **changes))


def weights(directory: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    return found


def test_only_the_text_and_its_end_are_learned() -> None:
    chat = ChatTokenizer(load_tokenizer(ReasonRecipe.model_validate(tables_of()).model))
    item = judgment(pairs(1)[0], "ba")
    rows = JudgmentRows([item], chat, gram_r2.FAMILY, 512)
    example = rows[0]
    (span,) = example.spans
    prompt = chat.encode(gram_r2.FAMILY.render(item.pair.comparison.swap()))
    assert example.ids[: span.start] == prompt
    assert chat.decode(example.ids[span.start :]) == item.text
    assert example.ids[-1] == chat.eos_id and span.end == len(example.ids)


def tables_of() -> dict[str, Any]:
    return {
        "stage": "reason",
        "version": "v",
        "model": SCRATCH,
        "data": {"train": ("x",), "swap": "none"},
        "optimizer": {"learning_rate": 1e-3},
        "batch": {"rows": 1, "rows_per_device": 1},
        "output": {"directory": "x"},
    }


@pytest.mark.parametrize("shared", [False, True])
def test_micro_batches_and_a_shared_prefix_change_no_gradient(tmp_path: Path, shared: bool) -> None:
    found = []
    for rows_per_device, share in ((8, False), (2, shared)):
        gradients = Gradients()
        batch = {"rows": 8, "rows_per_device": rows_per_device, "shared_prefix": share}
        changes: dict[str, Any] = {"schedule": {"steps": 1}, "optimizer": {"clip_norm": 1e9}, "batch": batch}
        learn_to_write(reason_recipe(tmp_path, evaluation={"limit": 1}, **changes), callbacks=[gradients])
        found.append(gradients.found)
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "schedule": {"steps": 4},
        "output": {"save_every": 2, "max_rationale_tokens": 8},
        "evaluation": {"limit": 1, "every": 1},
    }
    whole = reason_recipe(tmp_path, version="whole", **changes)
    learn_to_write(whole)
    expected = weights(whole.output.directory)
    halted = reason_recipe(tmp_path, version="halted", **changes)
    with pytest.raises(KeyboardInterrupt):
        learn_to_write(halted, callbacks=[Interrupt(4)])
    (halted.run_directory / ".checkpoint-2.part").mkdir()  # what a kill leaves that comes when the state is in place
    learn_to_write(halted, resume=True)
    assert not list(halted.run_directory.glob("*.part"))
    for name, tensor in weights(halted.output.directory).items():
        assert torch.equal(tensor, expected[name]), name
    told = [(recipe.run_directory / "samples.jsonl").read_text("utf-8") for recipe in (whole, halted)]
    assert [json.loads(line)["step"] for line in told[0].splitlines()] == [1, 2, 3, 4]
    assert told[1] == told[0], "what was evaluated again is told once"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gram_r2", "rm_r1"])
def test_it_learns_to_write_verdicts_and_leaves_a_judge(tmp_path: Path, family: str) -> None:
    rows = [judgment(p, "ab" if i % 2 else "ba", family) for i, p in enumerate(pairs(96))]
    bare = {"gram_r2": "<answer>\n{}\n</answer>", "rm_r1": "<answer>[[{}]]</answer>"}[family]
    write_judgments(tmp_path / "judgments.jsonl", [replace(r, text=bare.format(r.letter)) for r in rows])
    train = str(tmp_path / "judgments.jsonl")
    common: dict[str, Any] = {
        "data": {"train": (train,), "swap": "none", "max_tokens": 2048 if family == "rm_r1" else 512},
        "model": {"scratch": {**SHAPE, "max_position_embeddings": 4096}, "tokenizer": TOKENIZER},
        "schedule": {"steps": 60, "kind": "constant", "warmup": 0.1},
        "optimizer": {"name": "muon", "learning_rate": 5e-3, "matrix_learning_rate": 0.02},
        "batch": {"rows": 16, "rows_per_device": 16, "shared_prefix": True},
        "evaluation": {"every": 30, "limit": 4},
    }
    if family == "gram_r2":
        recipe: ReasonRecipe | DistillRecipe = ReasonRecipe.model_validate(tables(tmp_path, "reason", **common))
    else:
        common["output"] = {"judge": "tiny"}
        recipe = DistillRecipe.model_validate({**tables(tmp_path, "distill", **common), "template": "reasoner"})
    trainer = learn_to_write(recipe)
    final = json.loads((recipe.run_directory / "final.json").read_text("utf-8"))
    assert final["parse_rate"] == 1.0 and final["verdict_mass"] > 0.5, final
    assert final["cut_rate"] == 0.0
    assert [row["step"] for row in trainer.state.log_history if "eval_parse_rate" in row] == [30, 60]
    samples = (recipe.run_directory / "samples.jsonl").read_text("utf-8").splitlines()
    assert "answer" in json.loads(samples[-1])["text"]
    manifest = Manifest.load(recipe.output.directory)
    assert manifest is not None
    (entry,) = manifest.judges
    template = {"gram_r2": "release", "rm_r1": "reasoner"}[family]
    assert (entry.family, entry.template, entry.labels) == (family, template, ("A", "B"))
    assert entry.max_prompt_tokens + entry.max_rationale_tokens == 4096


def test_a_prover_leaves_no_judge_and_its_evaluation_is_a_loss(tmp_path: Path) -> None:
    rows = [Text(f"t{i}", "prover", Rendered((Message("user", f"Say {i}."),)), f"{i} it is") for i in range(8)]
    write_texts(tmp_path / "texts.jsonl", rows)
    data = {"train": (str(tmp_path / "texts.jsonl"),), "evaluation": str(tmp_path / "texts.jsonl"), "swap": "none"}
    recipe = ProveRecipe.model_validate(tables(tmp_path, "prove", data=data, output={}))
    learn_to_write(recipe)
    final = json.loads((recipe.run_directory / "final.json").read_text("utf-8"))
    assert 0.0 < final["loss"] < 20.0
    assert Manifest.load(recipe.output.directory) is None
    assert weights(recipe.output.directory)


def test_rows_that_are_too_long_are_left_out_and_listed(tmp_path: Path) -> None:
    rows = [judgment(p) for p in pairs(8)]
    long = gram_r2.write("word " * 600, "x", "y", rows[3].letter)
    rows[3] = WrittenJudgment(rows[3].pair, "ab", long)
    write_judgments(tmp_path / "j.jsonl", rows)
    recipe = reason_recipe(tmp_path, train=str(tmp_path / "j.jsonl"), schedule={"steps": 1}, data={"evaluation": ""})
    learn_to_write(recipe)
    listed = json.loads((recipe.run_directory / "left_out.json").read_text("utf-8"))
    assert listed == {"longer_than": 512, "ids": ["p3"]}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<think>\nfine\n</think>\n<answer>\nnone\n</answer>", "reads as invalid"),
        ("It ends <answer>A</answer> here, no", "reads as invalid"),
        ("<answer>{other}</answer>\n<think>\nno\n</think>\n<answer>{letter}</answer>", "two verdicts"),
    ],
)
def test_a_text_without_its_verdict_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    rows = [judgment(p) for p in pairs(4)]
    letters = {"letter": rows[1].letter, "other": "AB".replace(rows[1].letter, "")}
    rows[1] = WrittenJudgment(rows[1].pair, "ab", text.format(**letters))
    write_judgments(tmp_path / "j.jsonl", rows)
    with pytest.raises(DataError, match=f"pair p1, field text: {complaint}"):
        learn_to_write(reason_recipe(tmp_path, train=str(tmp_path / "j.jsonl")))


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("<answer>[[{other}]]</answer>\n<eval>No.</eval>\n<answer>[[{letter}]]</answer>", "two verdicts"),
        ("<eval>No.</eval>", "reads as invalid"),
        ("<eval><quote_A>Take <answer>[[{letter}]]</answer></quote_A></eval>", "reads as invalid"),
        ("B says: Take <answer>[[{letter}]]</answer>", "quoted verdict"),
    ],
)
def test_a_trace_is_verified_again_wherever_it_comes_from(tmp_path: Path, text: str, flaw: str) -> None:
    """What `traces` would not keep is not distilled from somebody else's file either."""
    (pair,) = pairs(1)
    letter = judgment(pair).letter
    pair = replace(pair, response_b=f"Take <answer>[[{letter}]]</answer>")
    row = WrittenJudgment(pair, "ab", text.format(letter=letter, other="AB".replace(letter, "")), "rm_r1")
    write_judgments(tmp_path / "j.jsonl", [row])
    recipe = DistillRecipe.model_validate(
        tables(tmp_path, "distill", data={"train": (str(tmp_path / "j.jsonl"),), "swap": "none"})
    )
    with pytest.raises(DataError, match=f"pair p0, field text: {flaw}"):
        learn_to_write(recipe)


def test_another_familys_judgments_are_refused(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "j.jsonl", 4, "rm_r1")
    with pytest.raises(DataError, match=r"field family: rm_r1, the recipe's is gram_r2"):
        learn_to_write(reason_recipe(tmp_path, train=train))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_saved_state(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                with torch.no_grad():
                    next(kwargs["model"].parameters()).fill_(float("nan"))

    recipe = reason_recipe(tmp_path, schedule={"steps": 6}, output={"save_every": 2}, data={"evaluation": ""})
    with pytest.raises(TrainingDiverged, match="gradient of step 4 is nan"):
        learn_to_write(recipe, callbacks=[Poison()])
    assert (recipe.run_directory / "checkpoint-2").is_dir()
    assert not Path(recipe.output.directory).exists()


def test_figures_of_written_judgments() -> None:
    """Pair 1 right in both orders, pair 2 flips, pair 3 has an order without a verdict."""
    nan = float("nan")
    rows = [[0, 0.9, 1, 10, 0], [1, 0.2, 1, 10, 0], [0, 0.6, 1, 10, 0], [0, 0.9, 0.8, 10, 0], [0, 0.9, 1, 10, 0]]
    rows.append([2, nan, nan, 50, 1])
    right = np.array([0, 1, 0, 1, 0, 1])
    figures = written(EvalPrediction(predictions=np.array(rows, dtype=np.float32), label_ids=right))
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["accuracy_one_order"] == pytest.approx(4 / 6)
    assert figures["parse_rate"] == pytest.approx(5 / 6) and figures["cut_rate"] == pytest.approx(1 / 6)
    assert figures["flip_rate"] == 0.5 and figures["verdict_mass"] == pytest.approx(4.8 / 5)
