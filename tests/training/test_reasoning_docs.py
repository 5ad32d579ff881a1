"""docs/reasoning.md can be copied and pasted: its commands are commands, its recipe is one, its script makes proofs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from training.__main__ import command_line
from training.data.judgments import read_judgments
from training.data.proofs import Proof
from training.presets import names, resolve
from training.recipe_files import load_recipe
from training.writing_configs import ReasonRecipe

PAGE = "docs/reasoning.md"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(root: Path) -> str:
    return (root / PAGE).read_text("utf-8")


def test_every_command_is_one(page: str, root: Path) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [line.strip() for line in page.splitlines() if line.startswith("    python -m training ")]
    commands = [shlex.split(line, comments=True) for line in lines if " -m training " in line]
    written = {words[words.index("--output") + 1] for words in commands if "show" in words} | {
        "reason.toml",
        "prove.toml",
    }
    used = set()
    for words in commands:
        args = command_line().parse_args(words[words.index("training", words.index("-m")) + 1 :])
        used.add(args.command)
        if args.command == "recipe":
            resolve(args.name, args.set).recipe()
        elif (recipe := getattr(args, "recipe", None)) is not None:
            assert str(recipe) in written or recipe.as_posix() in names() or (root / recipe).is_file(), recipe
    assert used >= {"reason", "prove", "proofs", "selftrain", "traces", "distill", "grpo", "pipeline"}


def test_the_recipe_is_one_and_its_prover_too(page: str, tmp_path: Path) -> None:
    (text,) = blocks(page, "toml")
    (tmp_path / "reason.toml").write_text(text, "utf-8")
    assert isinstance(load_recipe(tmp_path / "reason.toml"), ReasonRecipe)
    prover = text.replace('"reason"', '"prove"').replace('evaluation = "data/demo/dev.jsonl"\n', "")
    (tmp_path / "prove.toml").write_text(prover, "utf-8")
    assert load_recipe(tmp_path / "prove.toml").stage == "prove"


def test_the_script_makes_judgments_that_make_proofs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    people = [
        {"score": -2, "feedback1": "Right.", "feedback2": "Wrong.\n", "reasoning": "@Response 1 is right."},
        {"score": 0, "feedback1": "Fine.", "feedback2": "Fine.", "reasoning": "Equal."},
        {"score": 1, "feedback1": "Long.", "feedback2": "Short.", "reasoning": "Response 2 is better."},
    ]
    row = {"context": [{"role": "user", "content": "2 + 2?"}], "response1": "4", "response2": "5"}
    (tmp_path / "helpsteer3-preference.jsonl").write_text(json.dumps({**row, "individual_preference": people}) + "\n")
    (script,) = blocks(page, "python")
    exec(compile(script, PAGE, "exec"), {})
    found = list(read_judgments(tmp_path / "data" / "gram-r2" / "helpsteer3-rationales.jsonl"))
    assert [one.pair.label for one in found] == ["a", "b"]
    proofs = [Proof.of_rationale(one.text) for one in found]
    assert [proof.letter for proof in proofs] == ["A", "B"]
    assert proofs[0].sections.feedback == "Response A: Right.\n\nResponse B: Wrong."
    assert proofs[0].sections.comparison == "@Response A is right."
