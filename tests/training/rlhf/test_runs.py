"""Whole runs at a size of seconds: a real service in the process, on the fake engine, asked over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from service.errors import StartupError
from tests.support.tiny_policy import tiny_policy
from training.__main__ import command_line
from training.data.pairs import DataError
from training.rlhf import grpo, ppo, records, runs
from training.rlhf.loopback import judge_url


@pytest.fixture
def place(tmp_path: Path) -> runs.Place:
    policy, tokenizer = tiny_policy()
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return runs.Place(tmp_path / "policy", tmp_path / "run", engine="fake", validation=3, test=4)


def check(place: runs.Place, report: dict[str, Any], steps: int) -> list[dict[str, float]]:
    """What every run leaves behind."""
    rows = records.read_metrics(place.output)
    assert [row["step"] for row in rows] == list(range(steps + 1))
    assert {"validation/gold", "validation/proxy", "validation/kl"} <= rows[0].keys() & rows[-1].keys()
    assert all(0 <= row["score"] <= 1 and row["failed"] == 0 for row in rows[1:])
    assert rows[0]["validation/proxy"] == rows[0]["validation/win_rate"] == 0.5 and rows[0]["validation/kl"] == 0
    assert json.loads((place.output / "report.json").read_text(encoding="utf-8")) == report
    assert (place.output / "curves.png").stat().st_size > 10_000
    old = report["test"]["old"]
    assert old["proxy"] == 0.5 and old["kl"] == 0 and old["failed"] == 0
    best = max(rows, key=lambda row: row.get("validation/proxy", -1))
    assert report["chosen_step"] == best["step"], "the checkpoint is the one the judge prefers, never the oracle's"
    assert runs.sentence(report).startswith(f"4 test questions, policy of step {report['chosen_step']}: right 0.000")
    return rows


@pytest.mark.slow
def test_ppo_over_http(place: runs.Place) -> None:
    options = ppo.Options(steps=3, batch=4, minibatch=2, epochs=1, value_only=1, policy_rate=1e-2, evaluate_every=2)
    rows = check(place, runs.train_ppo(place, options), steps=3)
    assert rows[1]["policy_loss"] == 0 and rows[1]["kl"] == rows[2]["kl"] == 0
    assert rows[3]["validation/kl"] != 0
    again = runs.train_ppo(runs.Place(place.policy, place.output / "2", None, "fake", 3, 4), options)
    assert again["test"] == json.loads((place.output / "report.json").read_text(encoding="utf-8"))["test"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["group", "cohort"])
def test_grpo_over_http(place: runs.Place, mode: Literal["group", "cohort"]) -> None:
    options = grpo.Options(mode=mode, steps=2, prompts=2, group=2, rate=1e-2, evaluate_every=1)
    check(place, runs.train_grpo(place, options), steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_run_ends_when_its_minutes_are_over(place: runs.Place, algorithm: str) -> None:
    """After a whole step, with marks, a report and a picture."""
    if algorithm == "ppo":
        report = runs.train_ppo(place, ppo.Options(steps=50, batch=4, minibatch=2, epochs=1, minutes=1e-6))
    else:
        report = runs.train_grpo(place, grpo.Options(steps=50, prompts=2, group=2, minutes=1e-6))
    check(place, report, steps=1)


def test_supervised_training_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists"):
        runs.sft(tmp_path, seed=0, steps=1, test=4)


def test_a_judge_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="did not start"), judge_url(None, model=tmp_path / "nothing"):
        pass


def test_a_named_service_is_left_alone() -> None:
    with judge_url("http://10.0.0.1:8000/") as url:
        assert url == "http://10.0.0.1:8000"


@pytest.mark.parametrize("line", ["rlhf sft", "rlhf ppo --reference old --window 0", "rlhf grpo --mode cohort"])
def test_command_lines(line: str) -> None:
    assert command_line().parse_args(line.split()).command == "rlhf"


def test_the_defaults_are_those_of_the_paper() -> None:
    args = command_line().parse_args(["rlhf", "ppo"])
    assert (args.gamma, args.window, args.value_only, args.reference) == (10.0, 1000, 30, "own")
    assert args.rate == ppo.Options().policy_rate == 2 * ppo.Options().value_rate
    assert (ppo.Options().batch, ppo.Options().epochs) == (64, 4)


def test_the_reference_ppo_is_read_in_one_sitting() -> None:
    assert ppo.__file__ is not None
    assert len(Path(ppo.__file__).read_text(encoding="utf-8").splitlines()) <= 300
