"""Graded responses, the cache of matrices, and the replay of plans: all that needs no judge."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.__main__ import parse
from benchmarks.adaptive import RESPONSES, Case, replay
from benchmarks.graded import GRADES, PER_GRADE, GradedPrompt, draw_graded
from benchmarks.matrices import Judged, key_of, load, log_odds, shuffled, with_noise
from service.ranking.board import RankTask
from service.ranking.strength import win_probability


def judged(prompt: GradedPrompt) -> Judged:
    """A judge that sees grades, a nat and a half apart, and prefers shorter texts a little."""
    worth = [-1.5 * grade - len(text) / 100 for grade, text in zip(prompt.grades, prompt.responses, strict=True)]
    n = len(worth)
    return Judged(
        prompt, [[None if i == j else win_probability(worth[i] - worth[j]) for j in range(n)] for i in range(n)]
    )


@pytest.fixture(scope="module")
def prompts() -> list[GradedPrompt]:
    return draw_graded(20, 1)


def test_every_grade_has_its_share_and_no_text_comes_twice(prompts: list[GradedPrompt]) -> None:
    for prompt in prompts:
        assert len(set(prompt.responses)) == RESPONSES
        assert sorted(prompt.grades) == [grade for grade in range(len(GRADES)) for _ in range(PER_GRADE)]
    assert len({key_of(prompt) for prompt in prompts}) == 20


def test_drawing_more_only_adds(prompts: list[GradedPrompt]) -> None:
    assert draw_graded(5, 1) == prompts[:5]
    assert draw_graded(5, 2) != prompts[:5]


def test_the_right_answer_is_right(prompts: list[GradedPrompt]) -> None:
    sums = [prompt for prompt in prompts if prompt.task == "addition"]
    assert sums
    for prompt in sums:
        a, _, b = prompt.prompt.removeprefix("What is ").removesuffix("?").split()
        texts = zip(prompt.grades, prompt.responses, strict=True)
        assert all((str(int(a) + int(b)) in text) for grade, text in texts if grade == 0)


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    cache = tmp_path / "matrices.jsonl"
    rows = [{"key": "a", "wins": [[None, 0.5], [0.5, None]]}, {"key": "b", "wins": None}]
    cache.write_text("\n".join([*map(json.dumps, rows), '{"key": "c", "wi', json.dumps({"key": "d", "wins": None})]))
    assert load(cache) == {"a": [[None, 0.5], [0.5, None]], "b": None, "d": None}
    assert load(tmp_path / "none") == {}


def test_noise_is_the_same_for_a_pair_and_keeps_complements(prompts: list[GradedPrompt]) -> None:
    one = judged(prompts[0])
    noisy, again = with_noise(one, 1.0, 7), with_noise(one, 1.0, 7)
    assert noisy == again
    assert noisy != with_noise(one, 1.0, 8)
    assert with_noise(one, 0.0, 7) is one
    moved = [log_odds(noisy.wins[i][j]) - log_odds(one.wins[i][j]) for i in range(16) for j in range(i)]
    assert 0.7 < math.sqrt(sum(m * m for m in moved) / len(moved)) < 1.3
    assert log_odds(noisy.wins[2][5]) == pytest.approx(-log_odds(noisy.wins[5][2]))


def test_shuffling_moves_grades_and_answers_together(prompts: list[GradedPrompt]) -> None:
    one = judged(prompts[0])
    moved = shuffled(one, "x")
    assert moved.prompt != one.prompt
    assert moved == judged(moved.prompt)


@pytest.mark.parametrize("plan", ["adaptive", "knockout", "swiss"])
def test_replay_picks_a_right_answer(prompts: list[GradedPrompt], plan: str) -> None:
    for prompt in prompts:
        case = Case.of(judged(prompt))
        best = replay(plan, RankTask(RESPONSES, "best"), case.judged).order[0]  # type: ignore[arg-type]
        assert prompt.grades[best] == prompt.grades[case.best] == 0


def test_certainty_has_bounded_log_odds() -> None:
    assert (log_odds(1.0), log_odds(0.0), log_odds(0.5)) == (36.0, -36.0, 0.0)
    with pytest.raises(ValueError, match="not judged"):
        log_odds(None)


def test_the_command_takes_a_checkpoint() -> None:
    assert parse(["adaptive"]).model is None
    assert parse(["adaptive", "--model", "here", "--prompts", "5"]).prompts == 5
