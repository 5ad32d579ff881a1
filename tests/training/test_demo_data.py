"""The synthetic preference family: labels that hold, content that stays held out, cues that say nothing."""

from __future__ import annotations

from random import Random

import pytest

from service.judging import gram_r2
from training.data.demo_tasks import ALL_TASKS, TASKS, DemoPair, draw, rationale
from training.evaluation.demo import heldout_pairs, length_baseline, style_baseline


def _pairs(task: str, n: int, *, from_held_out: bool, seed: int = 0) -> list[DemoPair]:
    rng = Random(seed)
    return [draw(task, rng, from_held_out=from_held_out) for _ in range(n)]


@pytest.mark.parametrize("task", sorted(ALL_TASKS))
def test_right_and_wrong_differ_and_prompts_are_not_empty(task: str) -> None:
    for pair in _pairs(task, 200, from_held_out=False):
        assert pair.right != pair.wrong
        assert pair.right_said != pair.wrong_said
        assert pair.prompt.strip() == pair.prompt


@pytest.mark.parametrize("task", sorted(ALL_TASKS))
def test_held_out_answers_never_meet_the_same_question_in_training(task: str) -> None:
    """Whole texts of 3,000 training pairs: a held-out pair is not among them, in either part's own words."""
    seen = {(p.prompt, p.right, p.wrong) for p in _pairs(task, 3000, from_held_out=False)}
    assert not seen & {(p.prompt, p.right, p.wrong) for p in _pairs(task, 300, from_held_out=True)}


def test_answers_are_true() -> None:
    rng = Random(3)
    for _ in range(300):
        fact = ALL_TASKS["addition"](rng)
        a, b = fact.content.split("+")
        assert int(fact.right) == int(a) + int(b) != int(fact.wrong)
        fact = ALL_TASKS["sorting"](rng)
        assert fact.right.split(", ") == sorted(fact.content.split(", "))
        fact = ALL_TASKS["extreme"](rng)
        word, _, listed = fact.content.partition(" ")
        numbers = [int(n) for n in listed.split(", ")]
        assert int(fact.right) == (max(numbers) if word == "largest" else min(numbers))
        fact = ALL_TASKS["reversing"](rng)
        assert fact.right.split() == fact.content.split()[::-1]


@pytest.mark.parametrize("right_first", [True, False])
def test_rationales_are_read_back_by_the_family(right_first: bool) -> None:
    for task in ALL_TASKS:
        pair = _pairs(task, 1, from_held_out=False)[0]
        parsed = gram_r2.FAMILY.parse(rationale(pair, right_first))
        assert parsed.verdict == ("A" if right_first else "B")
        assert parsed.conflicting == 0
        assert set(parsed.sections) == {"feedback", "comparison", "conclusion"}


def test_heldout_pairs_are_distinct_seeded_and_spread_over_tasks() -> None:
    pairs = heldout_pairs(600, seed=5)
    assert pairs == heldout_pairs(600, seed=5)
    assert len(set(pairs)) == 600
    counts = [sum(p.task == task for p in pairs) for task in TASKS]
    assert max(counts) - min(counts) <= 1


@pytest.mark.slow
def test_length_and_style_say_nothing_about_which_is_right() -> None:
    train = heldout_pairs(3000, seed=6)
    test = heldout_pairs(2000, seed=7)
    assert length_baseline(train, test) <= 0.55
    assert style_baseline(train, test) <= 0.55


def test_style_baseline_finds_a_planted_cue() -> None:
    planted = [DemoPair("t", "q", f"**{i}**", f"{i}", "", "") for i in range(50)]
    assert style_baseline(planted, planted) == 1.0
    assert length_baseline(planted, planted) == 1.0
