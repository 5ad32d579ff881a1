"""``python -m training evaluate``: what it writes, and the one sentence it says when something is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.support.serving import listening
from training.__main__ import main
from training.commands.evaluate import NAMES
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.judges.http import ServiceJudge
from training.evaluation.run import evaluate_all


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"id": str(i), "prompt": f"{i}?", "response_a": "x" * (i + 1), "response_b": "yy", "label": "ab"[i % 2]}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps({**row, "subset": f"s{i % 2}"}) + "\n" for i, row in enumerate(rows)))
    return path


def run(*words: str | Path) -> None:
    with mock.patch.object(sys, "argv", ["training", "evaluate", *map(str, words)]):
        main()


def refused(*words: str | Path) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    message = str(stopped.value.code)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def test_a_result_is_a_table_a_picture_and_its_answers(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("pairs", "--data", pairs, "--baseline", "length", "--output", out)
    assert sorted(path.name for path in out.iterdir()) == ["pairs.answers.jsonl", "pairs.json", "pairs.md", "pairs.png"]
    data = json.loads((out / "pairs.json").read_text())
    # Lengths 1..12 against 2: the even ones are labelled a. Right: 2, 4, .. 10 (five); 0 and the odd ones are wrong.
    assert data["scores"][0]["two_orders"]["value"] == pytest.approx(5 / 12)
    assert data["scores"][0]["length"]["value"] == pytest.approx(5.5 / 12)  # one pair of equal lengths, one half
    assert data["health"]["ties"] == 1
    assert data["files"][0]["rows"] == 12
    assert "overall (all pairs)" in capsys.readouterr().out
    assert (out / "pairs.png").read_bytes().startswith(b"\x89PNG")


def test_two_judges_are_compared_on_what_both_saw(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for judge in ("length", "first"):
        run("pairs", "--data", pairs, "--baseline", judge, "--output", tmp_path / judge)
    capsys.readouterr()
    run("compare", tmp_path / "length" / "pairs.json", tmp_path / "first" / "pairs.json")
    page = capsys.readouterr().out
    assert "12 pairs or lists that both judged" in page
    assert "only the first right: 5; only the second: 0" in page
    assert "p = 0.0625" in page


def test_a_limit_is_called_a_trial(pairs: Path, tmp_path: Path) -> None:
    run("pairs", "--data", pairs, "--baseline", "random", "--output", tmp_path / "out", "--limit", "4")
    assert "A trial on about 4 pairs" in (tmp_path / "out" / "pairs.md").read_text()
    assert json.loads((tmp_path / "out" / "pairs.json").read_text())["health"]["pairs"] == 4


async def test_a_running_service_is_evaluated_over_http(pairs: Path, tmp_path: Path) -> None:
    from training.commands.evaluate import parse

    out = tmp_path / "out"
    async with listening() as api:
        words = ["pairs", "--data", pairs, "--url", api.url, "--output", out, "--batch", "5"]
        (result,) = await evaluate_all(parse([str(word) for word in words]))
        judge = await ServiceJudge.connect(api.client)
    assert (result.judge, result.version) == ("gram", judge.version)
    assert result.health.invalid.value == 0.0
    assert result.health.label_mass is not None
    answers = [json.loads(line) for line in (out / "pairs.answers.jsonl").read_text().splitlines()]
    assert len(answers) == 12
    assert {answer["judge"] for answer in answers} == {judge.version}


def test_the_names_in_the_help_are_those_there_are() -> None:
    assert tuple(BENCHMARKS) == NAMES


def test_wrong_commands_say_what_to_do(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAM_DATA_DIR", raising=False)
    assert "no benchmark poems; there are rewardbench, rm_bench" in refused("poems", "--baseline", "length")
    assert "Name the judge" in refused("rewardbench")
    assert "GRAM_DATA_DIR" in refused("rewardbench", "--baseline", "length")
    assert "one at a time" in refused("rewardbench", "rmb", "--baseline", "length", "--data", tmp_path)
    assert "does not exist" in refused("pairs", "--baseline", "length", "--data", tmp_path / "gone.jsonl")
    (tmp_path / "empty").mkdir()
    assert "holds none of" in refused("rmb", "--baseline", "length", "--data", tmp_path / "empty")
    assert "No service answers" in refused("pairs", "--data", pairs, "--url", "http://127.0.0.1:9")
    assert "cannot be read" in refused("pairs", "--data", pairs, "--url", "http://x", "--key-file", tmp_path / "key")
    assert "There is no model directory" in refused("pairs", "--data", pairs, "--model", "./nowhere")
    assert "is not on the hub" in refused("rmb", "--hub", "--baseline", "length")
    assert "compare takes two results" in refused("compare", "one.json")
    assert "cannot be read as a result" in refused("compare", "one.json", "two.json")


def test_a_row_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "?", "response_a": "x", "response_b": "y"}\n')
    assert "pairs.jsonl, row 1, field label: missing" in refused("pairs", "--data", path, "--baseline", "length")
    path.write_text("")
    assert "is empty" in refused("pairs", "--data", path, "--baseline", "length")
