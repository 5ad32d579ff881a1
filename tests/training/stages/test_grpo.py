"""GRPO on the demo judge, a few updates long: what is rewarded, what is logged, what a resumed run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from service.judging import rm_r1
from service.manifest import Manifest
from service.tokenization import ChatTokenizer
from tests.support.tiny_training import SCRATCH, TOKENIZER, pairs, tables
from tests.support.trainer_callbacks import Interrupt
from training.configs import ModelSection, PrecisionSection
from training.data.demo_files import as_pair
from training.data.pairs import DataError, Pair, write_pairs
from training.evaluation.demo import heldout_pairs
from training.stages.errors import TrainingDiverged
from training.stages.generating import Writing, as_writing
from training.stages.grpo import VerdictReward, figures, grpo, layout
from training.stages.models import load_causal, load_tokenizer
from training.writing_configs import GrpoRecipe

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def recipe_of(directory: Path, **changes: Any) -> GrpoRecipe:
    drawn = [as_pair(p, f"p{i}", i % 2 == 0) for i, p in enumerate(heldout_pairs(16, seed=3))]
    write_pairs(directory / "train.jsonl", drawn[:12])
    write_pairs(directory / "dev.jsonl", drawn[12:])
    base: dict[str, Any] = {
        "model": {"path": TOKENIZER},
        "data": {"swap": "random", "evaluation": str(directory / "dev.jsonl"), "task_types": {"addition": "reasoning"}},
        "optimizer": {"learning_rate": 1e-4},
        "batch": {"rows": 8, "rows_per_device": 8},
        "evaluation": {"every": 2, "limit": 2},
        "output": {"save_every": 2, "judge": "demo-rl"},
    }
    rollout = {"prompts": 4, "group": 4, "max_tokens": 64, **changes.pop("rollout", {})}
    merged = {key: {**base.get(key, {}), **changes.pop(key, {})} for key in base}
    made = tables(directory, "grpo", **merged, **changes)
    made["data"]["train"] = (str(directory / "train.jsonl"),)
    made["data"]["evaluation"] = merged["data"]["evaluation"]
    return GrpoRecipe.model_validate({**made, "rollout": rollout, "family": "gram_r2"})


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return ChatTokenizer(load_tokenizer(ModelSection(path=TOKENIZER)))


def ids(chat: ChatTokenizer, text: str, ended: bool = True) -> list[int]:
    return [*chat.encode_text(text), *([chat.eos_id] if ended and chat.eos_id is not None else [])]


def test_only_a_finished_right_verdict_is_rewarded(chat: ChatTokenizer) -> None:
    """A cut judgment is invalid whatever it says, the last verdict counts, and none is as bad as a wrong one."""
    assert chat.eos_id is not None
    reward = VerdictReward(chat, rm_r1.INSTRUCT, [chat.eos_id])
    right = "<type>Chat</type> <answer>[[A]]</answer>"
    texts = [
        ids(chat, right),
        ids(chat, "<answer>[[B]]</answer>"),
        ids(chat, right, ended=False),
        ids(chat, "<answer>[[B]]</answer> no, <answer>[[A]]</answer>"),
        ids(chat, "A is better."),
        ids(chat, "<answer>[[A]]</answer> is my verdict"),
    ]
    logged: dict[str, float] = {}
    kinds = ["chat", "reasoning", "chat", "", "", ""]
    rewards = reward(texts, ["A"] * 6, kinds, logged.__setitem__, prompts=[], completions=[])
    assert rewards == [1.0, -1.0, -1.0, 1.0, -1.0, -1.0]
    assert logged["accuracy"] == pytest.approx(2 / 6) and logged["invalid_rate"] == pytest.approx(3 / 6)
    assert logged["cut_rate"] == pytest.approx(1 / 6) and logged["two_verdicts_rate"] == pytest.approx(1 / 6)
    assert logged["type_accuracy"] == pytest.approx(2 / 3)


def test_a_type_that_nobody_knows_is_not_measured(chat: ChatTokenizer) -> None:
    writing = Writing((1, 2), "<answer>[[A]]</answer>", True)
    assert "type_accuracy" not in figures(rm_r1.INSTRUCT, [writing], ["A"], [""])


def test_what_follows_the_end_is_not_read(chat: ChatTokenizer) -> None:
    assert chat.eos_id is not None
    first = ids(chat, "<answer>[[A]]</answer>")
    writing = as_writing(chat, [*first, *ids(chat, "<answer>[[B]]</answer>")], [chat.eos_id])
    assert writing.ended and rm_r1.INSTRUCT.parse(writing.text).verdict == "A"


def test_every_prompt_of_the_run_has_its_place(tmp_path: Path) -> None:
    """Three epochs of eight prompts in five rollouts: all pairs equally often, in both orders, the same every time."""
    recipe = recipe_of(tmp_path)
    some = pairs(8)
    rows = layout(recipe, some, 6)
    assert rows == layout(recipe, some, 6) and len(rows) == 24
    assert sorted(pair.id for pair, _ in rows) == sorted(3 * [pair.id for pair in some])
    assert {swapped for _, swapped in rows} == {True, False}
    both = layout(recipe.model_copy(update={"data": recipe.data.model_copy(update={"swap": "both"})}), some, 4)
    assert sorted((p.id, s) for p, s in both) == sorted((p.id, s) for p in some for s in (False, True))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rollout": {"prompts": 3, "group": 3}}, "multiple of batch.rows"),
        ({"output": {"save_every": 3}}, "multiple of the 2 updates of a rollout"),
        ({"evaluation": {"every": 3}}, "evaluation.every must be a multiple"),
        ({"rollout": {"group": 1}}, "greater than or equal to 2"),
    ],
)
def test_runs_that_cannot_be_resumed_or_divided_are_refused(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        recipe_of(tmp_path, **changes)


def test_a_pair_without_a_label_is_named(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    write_pairs(Path(recipe.data.train[0]), [Pair("bare", pairs(1)[0].prompt, "x", "y")])
    with pytest.raises(DataError, match=r"bare\), field label"):
        grpo(recipe)


def tiny_start(directory: Path) -> str:
    """Fresh weights of two layers: they write noise, which is enough to be sampled, rewarded and moved."""
    section = ModelSection.model_validate(SCRATCH)
    tokenizer = load_tokenizer(section)
    torch.manual_seed(5)
    load_causal(section, PrecisionSection(compute="float32"), tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.mark.slow
def test_a_killed_run_goes_on_between_rollouts_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise holds no verdicts, so here a judgment is worth something by its first token."""
    usual = VerdictReward.__call__

    def by_first_token(self: VerdictReward, completion_ids: Any, *args: Any, **more: Any) -> list[float]:
        assert usual(self, completion_ids, *args, **more) == [-1.0] * len(completion_ids)
        return [1.0 if ids[0] % 2 else -1.0 for ids in completion_ids]

    monkeypatch.setattr(VerdictReward, "__call__", by_first_token)
    start = {"path": tiny_start(tmp_path / "start")}
    common: dict[str, Any] = {"model": start, "rollout": {"max_tokens": 6}, "data": {"max_tokens": 400}}
    whole = recipe_of(tmp_path, version="whole", output={"directory": str(tmp_path / "whole")}, **common)
    trainer = grpo(whole)
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert len(logged) == 2, "a rollout is logged with its first update"
    assert {"accuracy", "invalid_rate", "cut_rate", "kl", "entropy", "tokens"} <= logged[0].keys()
    assert [row["step"] for row in trainer.state.log_history if "eval_both_orders" in row] == [2, 4]
    halted = recipe_of(tmp_path, version="halted", output={"directory": str(tmp_path / "halted")}, **common)
    with pytest.raises(KeyboardInterrupt):
        grpo(halted, callbacks=[Interrupt(3)])
    grpo(halted, resume=True)
    first, second, begun = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "halted", "start")
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert any(not torch.equal(begun[name], tensor) for name, tensor in first.items())
    manifest = Manifest.load(tmp_path / "whole")
    assert manifest is not None
    (entry,) = manifest.judges
    assert (entry.name, entry.family, entry.max_rationale_tokens) == ("demo-rl", "gram_r2", 6)
    final = json.loads((whole.run_directory / "final.json").read_text("utf-8"))
    assert final["step"] == 2.0, "no evaluation was better than the first"
    assert (whole.run_directory / "written.jsonl").read_text("utf-8").count("\n") == 4


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_saved_state(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        """In the middle of the second rollout."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                with torch.no_grad():
                    next(kwargs["model"].parameters()).fill_(float("nan"))

    start = {"path": tiny_start(tmp_path / "start")}
    recipe = recipe_of(tmp_path, model=start, rollout={"max_tokens": 6}, data={"max_tokens": 400, "evaluation": ""})
    with pytest.raises(TrainingDiverged, match=r"gradient of step 4 is nan; nothing of it was saved"):
        grpo(recipe, callbacks=[Poison()])
    assert [path.name for path in recipe.run_directory.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not Path(recipe.output.directory).exists()
