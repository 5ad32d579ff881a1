"""The digit tasks: whatever is drawn, the better response is better, and each control does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.properties import bar
from training.data.pairs import read_pairs, write_pairs
from training.studies.tasks import NAMES, Source, draw, draw_prompts, for_tests, right_answers, with_errors

SOURCES = st.builds(
    Source,
    tasks=st.sets(st.sampled_from(NAMES), min_size=1).map(lambda names: tuple(sorted(names))),
    length=st.integers(2, 9),
    style=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    flips=st.sampled_from([0.0, 0.3, 1.0]),
    test=st.booleans(),
)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("task", "digits", "answer"),
    [
        ("increment", [3, 1, 9, 4], [4, 2, 0, 5]),
        ("complement", [3, 1, 9, 4], [6, 8, 0, 5]),
        ("reverse", [3, 1, 9, 4], [4, 9, 1, 3]),
        ("rotate", [3, 1, 9, 4], [4, 3, 1, 9]),
        ("sort", [3, 1, 9, 4], [1, 3, 4, 9]),
        ("swap", [3, 1, 9, 4], [9, 4, 3, 1]),
    ],
)
def test_answers(task: str, digits: list[int], answer: list[int]) -> None:
    assert right_answers(np.array([NAMES.index(task)]), np.array([digits])).tolist() == [answer]


@bar(5_000)
@given(source=SOURCES, seed=SEEDS)
def test_the_better_response_has_fewer_wrong_positions(source: Source, seed: int) -> None:
    pairs = draw(source, 40, np.random.default_rng(seed))
    answers = right_answers(pairs.task, pairs.prompt)
    better, worse = (pairs.better != answers).sum(1), (pairs.worse != answers).sum(1)
    assert len(pairs) == 40
    assert set(better.tolist()) <= {0, 1}
    assert np.all(worse > better)
    assert np.all(worse <= source.length)
    assert np.array_equal(pairs.gap, worse - better)
    assert {NAMES[i] for i in pairs.task} <= set(source.tasks)
    for digits in (pairs.prompt, pairs.better, pairs.worse):
        assert digits.shape == (40, source.length)
        assert digits.min() >= 0
        assert digits.max() <= 9


@bar(5_000)
@given(source=SOURCES, seed=SEEDS)
def test_labels_and_styles_follow_their_controls(source: Source, seed: int) -> None:
    pairs = draw(source, 40, np.random.default_rng(seed))
    assert np.array_equal(np.all(pairs.chosen[:, :-1] == pairs.better, axis=1), ~pairs.flipped)
    assert np.all(pairs.chosen[:, -1] + pairs.rejected[:, -1] == 1), "one of the two is styled"
    assert np.array_equal(pairs.chosen[:, -1] == 1, pairs.better_styled ^ pairs.flipped)
    for flags, rate in ((pairs.flipped, source.flips), (pairs.better_styled, source.style)):
        assert rate not in (0.0, 1.0) or np.all(flags == bool(rate))


@bar(5_000)
@given(length=st.integers(2, 9), test=st.booleans(), seed=SEEDS)
def test_prompts_for_tests_are_never_trained_on(length: int, test: bool, seed: int) -> None:
    prompts = draw_prompts(50, length, test, np.random.default_rng(seed))
    assert prompts.shape == (50, length)
    assert np.all(for_tests(prompts) == test)


def test_one_prompt_in_five_is_kept_for_tests() -> None:
    rows = np.array([[a, b, c, d] for a in range(10) for b in range(10) for c in range(10) for d in range(10)])
    held = for_tests(rows)
    assert 0.18 < held.mean() < 0.22
    assert all(0.15 < held[rows[:, column] == digit].mean() < 0.25 for column in range(4) for digit in range(10))


@bar(5_000)
@given(length=st.integers(1, 9), seed=SEEDS, data=st.data())
def test_exactly_so_many_positions_become_wrong(length: int, seed: int, data: st.DataObject) -> None:
    errors = np.array(data.draw(st.lists(st.integers(0, length), min_size=1, max_size=20)))
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 10, (len(errors), length))
    assert np.array_equal((with_errors(answers, errors, rng) != answers).sum(1), errors)


def test_rates_are_met() -> None:
    pairs = draw(Source(NAMES, style=0.7, flips=0.15), 20_000, np.random.default_rng(0))
    assert pairs.better_styled.mean() == pytest.approx(0.7, abs=0.015)
    assert pairs.flipped.mean() == pytest.approx(0.15, abs=0.015)
    assert np.corrcoef(pairs.better_styled, pairs.flipped)[0, 1] == pytest.approx(0.0, abs=0.03)


def test_the_same_seed_draws_the_same_pairs() -> None:
    first, again = (draw(Source(NAMES), 100, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.chosen, again.chosen)
    assert np.array_equal(first.prompt, again.prompt)


def test_foreign_prompts_keep_the_responses_and_take_their_meaning() -> None:
    rng = np.random.default_rng(1)
    pairs = draw(Source(NAMES), 2_000, rng)
    foreign = pairs.with_foreign_prompts(rng)
    assert np.array_equal(foreign.better, pairs.better)
    assert sorted(map(tuple, foreign.prompt.tolist())) == sorted(map(tuple, pairs.prompt.tolist()))
    wrong = (foreign.better != right_answers(foreign.task, foreign.prompt)).mean()
    assert wrong == pytest.approx(0.9, abs=0.02), "a foreign answer's digit is right by chance only"


@pytest.mark.parametrize("source", [Source(("divide",)), Source(NAMES, length=1)])
def test_impossible_sources_are_refused(source: Source) -> None:
    with pytest.raises(ValueError, match=r"divide|two digits"):
        draw(source, 10, np.random.default_rng(0))


def test_pairs_can_be_kept_in_the_project_s_own_format(tmp_path) -> None:
    pairs = draw(Source(("reverse",), style=1.0), 50, np.random.default_rng(2))
    file = tmp_path / "digits.jsonl"
    assert write_pairs(file, pairs.as_pairs(np.random.default_rng(3))) == 50
    read = list(read_pairs(file))
    assert {pair.label for pair in read} == {"a", "b"}
    for row, pair in enumerate(read):
        assert pair.prompt.messages[0].content == "reverse " + " ".join(map(str, pairs.prompt[row]))
        assert pair.chosen == " ".join(map(str, pairs.better[row])) + "!"
        assert pair.rejected == " ".join(map(str, pairs.worse[row])) + "."
