"""What cannot be trained is refused with one sentence, before anything is computed."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, TrainerCallback

from service.errors import StartupError
from service.judging import gram
from service.manifest import JudgeEntry, Manifest
from tests.support.tiny_training import (
    SCRATCH,
    TOKENIZER,
    adapt_recipe,
    finetune_recipe,
    language_model,
    pretrain_recipe,
    reward_recipe,
)
from training.configs import PrecisionSection, ScratchSection
from training.data.pairs import DataError, Pair, read_pairs, write_pairs
from training.stages.datasets import check_enough
from training.stages.finetune import finetune
from training.stages.models import load_causal, scratch_model
from training.stages.pretrain import pretrain
from training.stages.reward import train_reward
from training.stages.saving import SaveError, whole_directory


def test_labels_that_are_not_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "FAMILY", gram.Gram(labels=("Alpha beta", "Gamma delta")))
    with pytest.raises(StartupError, match="does not write the label 'Alpha beta' as a single token"):
        finetune(finetune_recipe(tmp_path))


def test_a_limit_that_cannot_hold_the_prompt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves no room"):
        finetune(finetune_recipe(tmp_path, data={"max_tokens": 40}))


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "reward"])
def test_rows_over_the_limit_are_cut_and_counted(tmp_path: Path, stage: str) -> None:
    """A quarter of the pairs is made too long: the logs say so, and the rows are as long as they may be."""
    start = {"path": str(language_model(tmp_path / "lm"))}
    one_epoch: dict[str, Any] = {
        "schedule": {"steps": None, "epochs": 1.0},
        "batch": {"rows": 64, "rows_per_device": 64},
    }
    run, recipe = {
        "pretrain": (pretrain, pretrain_recipe(tmp_path, **one_epoch, data={"swap": "none"})),
        "finetune": (finetune, finetune_recipe(tmp_path, **one_epoch, data={"swap": "none"})),
        "reward": (train_reward, reward_recipe(tmp_path, **one_epoch, model=start)),
    }[stage]
    rows = list(read_pairs(Path(recipe.data.train[0])))
    long = [replace(p, response_a=p.response_a + " and" * 2000) if i % 4 == 0 else p for i, p in enumerate(rows)]
    write_pairs(Path(recipe.data.train[0]), long)
    (step,) = [row for row in run(recipe).state.log_history if "loss" in row]  # type: ignore[operator]
    assert step["cut_rows"] == 0.25


def test_a_row_longer_than_the_model_has_positions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.max_tokens = 4096 .* 512 positions"):
        finetune(finetune_recipe(tmp_path, data={"max_tokens": 4096}))


def test_fewer_rows_than_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    recipe = finetune_recipe(tmp_path, data={"limit": 3, "swap": "none"}, batch={"rows": 8, "rows_per_device": 1})
    with pytest.raises(DataError, match="3 rows for 8 processes"):
        finetune(recipe)
    check_enough(8, 8)


def test_unlabelled_pairs_are_named(tmp_path: Path) -> None:
    recipe = finetune_recipe(tmp_path)
    rows = list(read_pairs(Path(recipe.data.train[0])))
    rows[2] = Pair("the-third", rows[2].prompt, "x", "y")
    write_pairs(Path(recipe.data.train[0]), rows)
    with pytest.raises(DataError, match=r"train\.jsonl, row 3 \(pair the-third\), field label: missing"):
        finetune(recipe)
    assert pretrain(pretrain_recipe(tmp_path, schedule={"steps": 1})).state.global_step == 1


_TURNS = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}] * 100


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"response_a": "same", "response_b": " same "}, "field response_b: identical responses"),
        ({"response_b": " \n"}, "field response_a or response_b: empty response"),
        ({"prompt": "  "}, "field prompt: empty prompt"),
        ({"response_a": "\ud800"}, "field any: lone surrogate"),
        ({"prompt": [*_TURNS, {"role": "user", "content": "z"}]}, "field prompt: .*leaves no room .* 512 tokens"),
        ({"prompt": _TURNS[:2]}, "field prompt: the prompt ends with the assistant's turn"),
    ],
)
@pytest.mark.parametrize("stage", ["pretrain", "finetune", "reward"])
def test_rows_that_teach_nothing_are_named_before_the_first_step(
    tmp_path: Path, stage: str, change: dict[str, Any], complaint: str
) -> None:
    """Also those that only the tokenizer can tell: a run must not find them after hours."""
    start = {"path": str(language_model(tmp_path / "lm"))}
    run, recipe = {
        "pretrain": (pretrain, pretrain_recipe(tmp_path)),
        "finetune": (finetune, finetune_recipe(tmp_path)),
        "reward": (train_reward, reward_recipe(tmp_path, model=start)),
    }[stage]
    file = Path(recipe.data.train[0])
    lines = file.read_text("utf-8").splitlines()
    lines[60] = json.dumps({**json.loads(lines[60]), **change})
    file.write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(DataError, match=rf"train\.jsonl, row 61 \(pair p60\), {complaint}"):
        run(recipe)  # type: ignore[operator]
    assert not recipe.run_directory.exists()


def test_an_output_that_cannot_be_or_holds_other_things(tmp_path: Path) -> None:
    """The finished checkpoint takes the place of what was there: that must be a checkpoint."""
    (tmp_path / "checkpoints" / "another").mkdir(parents=True)
    (tmp_path / "checkpoints" / "another" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"checkpoints would be replaced, and holds another and no checkpoint"):
        finetune(finetune_recipe(tmp_path, output={"directory": str(tmp_path / "checkpoints")}))
    assert (tmp_path / "checkpoints" / "another" / "config.json").exists()
    with pytest.raises(DataError, match=r"output\.directory = /dev/null/x: cannot be made \(File exists\)"):
        finetune(finetune_recipe(tmp_path, output={"directory": "/dev/null/x"}))
    assert not (tmp_path / "runs").exists(), "before anything is computed"


def test_a_tracker_nobody_knows_or_installed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tracker\.name = tensorbord: there is none of that name; .*tensorboard.*none"):
        finetune(finetune_recipe(tmp_path, tracker={"name": "tensorbord"}))
    with pytest.raises(DataError, match=r"tracker\.name = wandb: its package is not installed"):
        finetune(finetune_recipe(tmp_path, tracker={"name": "wandb"}))


def test_a_judge_of_another_family(tmp_path: Path) -> None:
    checkpoint = language_model(tmp_path / "other")
    Manifest("v", (JudgeEntry("m", "scalar", "chat", (), 512, 0),)).save(checkpoint)
    for recipe in (
        finetune_recipe(tmp_path, model={"path": str(checkpoint)}),
        adapt_recipe(tmp_path, model={"path": str(checkpoint)}),
    ):
        with pytest.raises(DataError, match="a checkpoint of family scalar, not of gram"):
            finetune(recipe)


def test_adapting_what_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no judge\.json"):
        finetune(adapt_recipe(tmp_path, model={"path": str(language_model(tmp_path / "plain"))}))


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    """Its missing output matrix would be filled with random numbers without an error."""
    checkpoint = language_model(tmp_path / "reward")
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    (checkpoint / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(DataError, match="is a Qwen3ForSequenceClassification, not a causal language model"):
        finetune(finetune_recipe(tmp_path, model={"path": str(checkpoint)}))


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    shape = ScratchSection.model_validate(SCRATCH["scratch"])
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    model = scratch_model(shape, tokenizer)
    model.resize_token_embeddings(100)
    model.save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    section = finetune_recipe(tmp_path, model={"path": str(tmp_path / "small")}).model
    with pytest.raises(DataError, match="100 embeddings; they do not belong together"):
        load_causal(section, PrecisionSection(), tokenizer)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot load a tokenizer from"):
        finetune(finetune_recipe(tmp_path, model={"path": str(tmp_path / "none")}))


def test_resuming_what_never_ran(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no saved state to go on from"):
        finetune(finetune_recipe(tmp_path), resume=True)


def test_a_disk_that_fills_up_during_training_leaves_the_last_good_state(tmp_path: Path) -> None:
    recipe = finetune_recipe(tmp_path, schedule={"steps": 4}, output={"save_every": 2})
    with pytest.raises(SaveError, match=r"checkpoint-4 could not be written \(.*go on with --resume"), _files_fill_up():
        finetune(recipe, callbacks=[_FillsUpAfter(2)])
    runs = recipe.run_directory
    assert sorted(p.name for p in runs.iterdir() if p.is_dir()) == ["checkpoint-2"]
    assert not Path(recipe.output.directory).exists()
    assert finetune(recipe, resume=True).state.global_step == 4
    assert Path(recipe.output.directory, "judge.json").exists()


def test_a_disk_that_fills_up_at_the_end_leaves_the_oldlanguage_model(tmp_path: Path) -> None:
    target = tmp_path / "judge"
    with whole_directory(target) as part:
        (part / "weights").write_bytes(b"old")
    (target / "README.md").write_text("a card")
    with (
        pytest.raises(SaveError, match="judge could not be written"),
        _files_fill_up(100),
        whole_directory(target) as part,
    ):
        (part / "weights").write_bytes(b"x" * 1000)
    assert (target / "weights").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["judge"]
    with whole_directory(target) as part:
        (part / "weights").write_bytes(b"new")
    assert (target / "weights").read_bytes() == b"new"
    assert (target / "README.md").read_text() == "a card"


class _FillsUpAfter(TrainerCallback):
    """From a step's save on, no file may grow beyond a kilobyte."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            _limit(1024)


@contextmanager
def _files_fill_up(size: int | None = None) -> Iterator[None]:
    """Writing beyond the limit fails as on a full disk (EFBIG instead of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        _limit(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_directory_in_the_way_of_the_part_is_cleared(tmp_path: Path) -> None:
    """What an interrupted run left of a checkpoint does not end up in the next one."""
    (tmp_path / ".judge.part").mkdir()
    (tmp_path / ".judge.part" / "stale").write_text("half")
    with whole_directory(tmp_path / "judge") as part:
        (part / "weights").write_bytes(b"new")
    assert [p.name for p in (tmp_path / "judge").iterdir()] == ["weights"]
    shutil.rmtree(tmp_path / "judge")
