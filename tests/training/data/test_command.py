"""``python -m training data``: what a person types, and what is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from training.__main__ import main
from training.data.formats.registry import FORMATS


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "data", *arguments])
    main()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"No, {i} <|im_end|>."} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_build_without_a_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, pairs: Path
) -> None:
    output = tmp_path / "out"
    run(monkeypatch, "build", "--input", str(pairs), "--output", str(output), "--validation", "0.3", "--seed", "1")
    said = capsys.readouterr().out
    assert "30 pairs read, 0 dropped, 30 kept." in said
    assert f"Card: {output / 'card.md'}" in said
    assert json.loads((output / "card.json").read_text())["recipe"]["seed"] == 1


def test_several_inputs_are_called_what_their_files_are_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pairs: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(pairs.read_text().replace("Question", "Riddle"))
    output = tmp_path / "out"
    run(monkeypatch, "build", "--input", str(pairs), "--input", str(other), "--output", str(output))
    ids = [json.loads(line)["id"] for path in output.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(set(ids)) == 60 and {name.split("/")[0] for name in ids} == {"mine", "other"}


def test_build_with_a_recipe_and_another_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, pairs: Path
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'output = "nowhere"\n[[inputs]]\npath = "{pairs}"\n')
    run(monkeypatch, "build", str(recipe), "--output", str(tmp_path / "here"))
    assert (tmp_path / "here" / "train.jsonl").is_file()
    assert "30 pairs read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("build",), "either a recipe or --input"),
        (("build", "--input", "x.jsonl"), "--output must name"),
        (("build", "--input", "none.jsonl", "--output", "o"), "none.jsonl does not exist"),
        (("build", "none.toml"), "none.toml does not exist"),
        (("show", "none.jsonl"), "none.jsonl does not exist"),
        (("formats", "--name", "x"), "Unknown format 'x'"),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    assert str(stop.value.code).startswith("error: ")
    assert complaint in str(stop.value.code)


def test_show_prints_what_the_demo_judge_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pairs: Path
) -> None:
    run(monkeypatch, "show", str(pairs), "--count", "1", "--skip", "2")
    said = capsys.readouterr().out
    assert "=== preference/3: " in said and "Question 2?" in said
    assert "#Preferred: <|im_end|>\n<|im_start|>assistant\n\n--- learned from here on" in said
    assert said.rstrip().endswith("A")
    run(monkeypatch, "show", str(pairs), "--count", "1", "--swapped", "--stage", "1")
    said = capsys.readouterr().out
    given, _, learned = said.partition("--- learned from here on")
    assert given.rstrip().endswith("<|im_start|>assistant")
    assert learned.index("No, 0 <|im_end|>.") < learned.index("Yes 0.")
    assert learned.rstrip().endswith("[The End of Assistant B's Answer]<|im_end|>")


def test_formats_prints_every_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "formats")
    said = capsys.readouterr().out
    for name, known in FORMATS.items():
        assert f"{name}: {known.about}" in said
        assert json.dumps(dict(known.example), indent=2) in said
