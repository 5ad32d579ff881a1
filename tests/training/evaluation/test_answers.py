"""Answers are kept as they come: a run that was interrupted goes on, and asks nobody anything twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.types import Verdict
from tests.support.evaluation import RIGHT, items_of, outcome
from training.data.pairs import DataError, Pair
from training.evaluation.answers import judge_all
from training.evaluation.items import Failure, Item
from training.evaluation.judges.base import EvaluationError


@dataclass
class Recorder:
    """A judge that is always right, counts whom it was asked about, and stops after ``stop`` batches."""

    version: str = "judge@1"
    name: str = "judge"
    stop: int | None = None
    fail: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)
    batches: int = 0

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        if self.batches == self.stop:
            raise EvaluationError("The service is gone; start again to go on.")
        self.batches += 1
        self.asked += [pair.id for pair in pairs]
        failed = Failure("token_limit", "too long")
        return [failed if pair.id in self.fail else outcome(Item(pair), RIGHT) for pair in pairs]


def _items(count: int = 10) -> list[Item]:
    rows = [{"id": str(i), "prompt": str(i), "response_a": "x", "response_b": "y", "label": "a"} for i in range(count)]
    return items_of("pairs", rows)


async def _judge(judge: Recorder, path: Path, items: list[Item] | None = None) -> list[str]:
    judged = await judge_all(judge, items or _items(), path, batch=2, concurrency=1)
    return ["ok" if one.verdict else str(getattr(one.outcome, "code", "")) for one in judged]


async def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first, second = Recorder(fail=frozenset("3")), Recorder()
    assert await _judge(first, path) == await _judge(second, path) == ["ok"] * 3 + ["token_limit"] + ["ok"] * 6
    assert (len(first.asked), second.asked) == (10, [])


async def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(ExceptionGroup) as stopped:
        await _judge(Recorder(stop=3), path)
    assert stopped.group_contains(EvaluationError, match="start again")
    after = Recorder()
    await _judge(after, path)
    assert sorted(after.asked) == ["6", "7", "8", "9"]


async def test_a_line_cut_short_by_a_kill_is_judged_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    await _judge(Recorder(), path)
    path.write_bytes(path.read_bytes()[:-20])
    after = Recorder()
    await _judge(after, path)
    assert after.asked == ["9"]
    assert len(path.read_text().splitlines()) == 10
    last = Recorder()
    await _judge(last, path)
    assert last.asked == []


async def test_another_judge_or_other_texts_are_asked_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    await _judge(Recorder(), path)
    other = Recorder(version="judge@2")
    await _judge(other, path)
    assert len(other.asked) == 10
    row = {"id": "0", "prompt": "0", "response_a": "x", "response_b": "changed", "label": "a"}
    changed = Recorder()
    await _judge(changed, path, items_of("pairs", [row]))
    assert changed.asked == ["0"]


async def test_answers_survive_the_file_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    judged = await judge_all(Recorder(), _items(), path)
    again = await judge_all(Recorder(), _items(), path)
    assert [one.outcome for one in judged] == [one.outcome for one in again]


async def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"hello": 1}) + "\n")
    with pytest.raises(DataError, match="row 1: not an answer"):
        await _judge(Recorder(), path)
