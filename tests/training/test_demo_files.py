"""The demo judge's files: the same bytes again, bare pairs before styled ones, judgments that agree with labels."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from service.judging import gram_r2
from service.manifest import Manifest
from training.commands import demo_data
from training.configs import FinetuneRecipe, PretrainRecipe
from training.data.demo_files import DemoSizes, write_demo
from training.data.judgments import read_judgments
from training.data.pairs import read_pairs
from training.stages.finetune import finetune
from training.stages.pretrain import pretrain

RECIPES = Path(__file__).parents[2] / "training" / "recipes"

SIZES = DemoSizes(pairs=400, judgments=40, held_out=18, vocabulary=2048, tokenizer_pairs=10)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    write_demo(directory, SIZES, 3)
    return directory


def test_the_same_arguments_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_demo(tmp_path, SIZES, 3)
    for name in ("pairs.jsonl", "judgments.jsonl", "dev.jsonl", "tokenizer/tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_bare_pairs_come_first_and_both_labels_as_often(written: Path) -> None:
    pairs = list(read_pairs(written / "pairs.jsonl"))
    assert [pair.label for pair in pairs].count("a") == 200
    lengths = [len(pair.response_a) + len(pair.response_b) for pair in pairs]
    assert sum(lengths[:100]) < 0.8 * sum(lengths[-100:])


def test_judgments_read_as_their_labels(written: Path) -> None:
    rows = list(read_judgments(written / "judgments.jsonl"))
    assert len(rows) == 40
    for item in rows:
        assert gram_r2.FAMILY.parse(item.text).verdict == ("A" if item.pair.label == "a" else "B")


def test_the_self_test_is_among_the_held_out_pairs(written: Path) -> None:
    held_out = list(read_pairs(written / "dev.jsonl"))
    assert len(held_out) == 18
    texts = (held_out[0].prompt.messages[0].content, held_out[0].chosen, held_out[0].rejected)
    assert texts == ("What is the capital of France?", "Paris", "Rome")
    trained = {(p.prompt, p.chosen, p.rejected) for p in read_pairs(written / "pairs.jsonl")}
    assert not [p.id for p in held_out[1:] if (p.prompt, p.chosen, p.rejected) in trained]


def test_the_tokenizer_writes_verdicts_and_labels_as_one_token(written: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(written / "tokenizer")
    for text in ("A", "B", " right", " wrong"):
        assert len(tokenizer(text, add_special_tokens=False).input_ids) == 1


@pytest.mark.parametrize(
    ("options", "sizes"), [([], DemoSizes()), (["--share", "0.01", "--held-out", "600"], DemoSizes(608, 380, 600))]
)
def test_the_command_draws_a_share_and_as_many_held_out_pairs_as_asked(
    options: list[str], sizes: DemoSizes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("training.data.demo_files.write_demo", lambda *arguments: asked.extend(arguments))
    parser = argparse.ArgumentParser()
    demo_data.add_parser(parser.add_subparsers())
    demo_data.run(parser.parse_args(["demo-data", str(tmp_path), *options]))
    assert asked == [tmp_path, sizes, 20]


@pytest.mark.slow
def test_the_shipped_recipes_make_both_judges(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 1, then stage 2, exactly as shipped but for size, number of steps and where the checkpoint goes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(written)
    short = {"steps": 2, "decay_from": 0.5}
    first = _small("demo-pretrain", {"schedule": short, "batch": {"rows": 8, "rows_per_device": 8}})
    first["model"]["scratch"] |= {"hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16, "intermediate_size": 32}
    pretrain(PretrainRecipe.model_validate(first))
    second = _small(
        "demo-finetune",
        {
            "schedule": short,
            "batch": {"rows": 12, "rows_per_device": 12},
            "output": {"directory": "judge"},
        },
    )
    finetune(FinetuneRecipe.model_validate(second))
    manifest = Manifest.load("judge")
    assert manifest is not None
    assert [(judge.name, judge.family) for judge in manifest.judges] == [("demo", "gram"), ("demo-r2", "gram_r2")]


def _small(name: str, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    values = tomllib.loads((RECIPES / f"{name}.toml").read_text("utf-8"))
    for table, entries in changes.items():
        values[table] |= entries
    return values | {"tracker": {"name": "none"}}
