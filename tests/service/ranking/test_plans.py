"""Ranking plans: permutations whatever they are told, the true order from a true judge, comparisons as stated."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InternalError, InvalidInput, NonFiniteScore
from service.ranking.board import MAX_RESPONSES, Goal, Pair, RankTask, mean_win_probabilities
from service.ranking.plans import (
    AUTO_ALL_PAIRS_MAX,
    PLANS,
    Method,
    all_pairs,
    auto,
    knockout,
    linear,
    most_pairs,
    pivot,
)
from service.ranking.strength import win_probability
from service.types import Ranking
from tests.support.properties import bar

Judge = Callable[[int, int], float]
METHODS = st.sampled_from(sorted(PLANS))
QUALITIES = st.lists(st.integers(-20, 20).map(lambda q: q / 4), min_size=1, max_size=14)


def run(method: Method, task: RankTask, judge: Judge) -> tuple[Ranking, list[list[Pair]]]:
    """Drive a plan; the batches it asked for come back beside its ranking."""
    plan, batches = PLANS[method](task), []
    try:
        batches.append(next(plan))
        while True:
            batches.append(plan.send([judge(i, j) for i, j in batches[-1]]))
    except StopIteration as done:
        return done.value, batches


def true_judge(qualities: list[float]) -> Judge:
    """Noise-free and transitive, with the service's exact complements: the better has w >= 0.5, the other 1 - w."""

    def judge(i: int, j: int) -> float:
        w = win_probability(abs(qualities[i] - qualities[j]))
        return w if qualities[i] >= qualities[j] else 1.0 - w

    return judge


def true_order(qualities: list[float]) -> list[int]:
    return sorted(range(len(qualities)), key=lambda i: (-qualities[i], i))


def noisy_judge(generator: random.Random) -> Judge:
    """Any probabilities at all, cycles and exact ties among them."""
    return lambda i, j: generator.choice([0.0, 0.5, 1.0, generator.random()])


@st.composite
def tasks(draw: st.DrawFn) -> RankTask:
    n = draw(st.integers(1, 14))
    goal: Goal = draw(st.sampled_from(["order", "best", "top_k"]))
    top_k = draw(st.integers(1, n)) if goal == "top_k" else None
    budget = draw(st.one_of(st.none(), st.integers(1, 2 * n)))
    return RankTask(n, goal, top_k, max_comparisons=budget, pivot=draw(st.integers(0, n - 1)))


@bar(5_000)
@given(METHODS, tasks(), st.randoms(use_true_random=False))
def test_j1_every_plan_ends_with_a_permutation(method: Method, task: RankTask, generator: random.Random) -> None:
    """J1, under a judge without sense; and no plan asks a pair twice, an unsorted batch, or more than its budget."""
    ranking, batches = run(method, task, noisy_judge(generator))
    asked = [pair for batch in batches for pair in batch]
    assert sorted(ranking.order) == list(range(task.n))
    assert [result.index for result in ranking.results] == list(range(task.n))
    assert sorted(result.rank for result in ranking.results) == list(range(task.n))
    assert all(0.0 <= result.score <= 1.0 for result in ranking.results)
    assert len(asked) == len({frozenset(pair) for pair in asked}) == ranking.comparisons
    assert all(i != j for i, j in asked)
    assert all(batch and batch == sorted(batch) for batch in batches)
    assert task.max_comparisons is None or ranking.comparisons <= task.max_comparisons
    assert (ranking.stopped == "budget") <= (ranking.comparisons == task.max_comparisons)
    assert ranking.comparisons <= most_pairs(method, task.n, task.places)


@bar(5_000)
@given(QUALITIES)
def test_all_pairs_finds_the_true_order(qualities: list[float]) -> None:
    ranking, _ = run("all_pairs", RankTask(len(qualities)), true_judge(qualities))
    assert list(ranking.order) == true_order(qualities)
    assert (ranking.comparisons, ranking.stopped) == (len(qualities) * (len(qualities) - 1) // 2, "complete")


@bar(5_000)
@given(QUALITIES, st.randoms(use_true_random=False))
def test_j1_all_pairs_does_not_depend_on_input_order(qualities: list[float], generator: random.Random) -> None:
    """J1: scores move with their response, bit for bit; equal scores alone are ranked by index."""
    moved = list(range(len(qualities)))
    generator.shuffle(moved)
    task = RankTask(len(qualities), strengths=False)
    before, _ = run("all_pairs", task, true_judge(qualities))
    after, _ = run("all_pairs", task, true_judge([qualities[i] for i in moved]))
    assert [before.results[i].score for i in moved] == [result.score for result in after.results]
    assert [before.results[i].score for i in before.order] == [after.results[i].score for i in after.order]
    for ranking in (before, after):
        keys = [(-ranking.results[i].score, i) for i in ranking.order]
        assert keys == sorted(keys)


@bar(5_000)
@given(METHODS, st.integers(1, 14), st.randoms(use_true_random=False))
def test_the_best_does_not_depend_on_input_order(method: Method, n: int, generator: random.Random) -> None:
    """J1, for every plan: a judge that sees differences of at least 1 nat gets the same best in any order of input."""
    qualities = [float(q) for q in generator.sample(range(-n, n), n)]
    moved = generator.sample(range(n), n)
    before, _ = run(method, RankTask(n, "best"), true_judge(qualities))
    after, _ = run(method, RankTask(n, "best"), true_judge([qualities[i] for i in moved]))
    assert qualities[before.order[0]] == qualities[moved[after.order[0]]] == max(qualities)


@bar(2_000)
@given(QUALITIES, st.sampled_from(["knockout", "linear", "pivot"]))
def test_n_minus_one_comparisons_find_the_best(qualities: list[float], method: Method) -> None:
    n = len(qualities)
    ranking, _ = run(method, RankTask(n, "best"), true_judge(qualities))
    assert qualities[ranking.order[0]] == max(qualities)
    assert ranking.comparisons == n - 1


@bar(2_000)
@given(QUALITIES, st.data())
def test_pivot_finds_the_true_order_around_any_pivot(qualities: list[float], data: st.DataObject) -> None:
    task = RankTask(len(qualities), pivot=data.draw(st.integers(0, len(qualities) - 1)))
    ranking, batches = run("pivot", task, true_judge(qualities))
    assert list(ranking.order) == true_order(qualities)
    assert ranking.results[task.pivot].score == 0.5
    assert all(i == task.pivot for batch in batches for i, _ in batch)


@bar(2_000)
@given(QUALITIES, st.data())
def test_knockout_places_the_top_k(qualities: list[float], data: st.DataObject) -> None:
    n = len(qualities)
    k = data.draw(st.integers(1, n))
    ranking, _ = run("knockout", RankTask(n, "top_k", k), true_judge(qualities))
    assert [qualities[i] for i in ranking.order[:k]] == sorted(qualities, reverse=True)[:k]
    assert ranking.comparisons <= n - 1 + 2 * (k - 1) * math.ceil(math.log2(max(n, 2)))
    assert ranking.stopped == "decided"


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 64])
def test_comparison_counts(n: int) -> None:
    judge = true_judge([float(i % 10) for i in range(n)])
    counts = {method: run(method, RankTask(n, strengths=False), judge)[0].comparisons for method in PLANS}
    pairs = n * (n - 1) // 2
    assert counts.pop("adaptive") <= pairs
    assert counts.pop("swiss") <= pairs
    assert counts == {
        "all_pairs": pairs,
        "pivot": n - 1,
        "knockout": n - 1,
        "linear": n - 1,
        "auto": pairs if n <= AUTO_ALL_PAIRS_MAX else n - 1,
    }


def test_knockout_plays_rounds_and_passes_the_odd_one_on() -> None:
    """Five entrants: two duels, then the bye meets a winner's neighbour, then the final: log2(n) batches, not n."""
    _, batches = run("knockout", RankTask(5, "best"), true_judge([5.0, 4.0, 3.0, 2.0, 1.0]))
    assert batches == [[(0, 1), (2, 3)], [(0, 2)], [(0, 4)]]


def test_linear_keeps_the_best_so_far() -> None:
    _, batches = run("linear", RankTask(4, "best"), true_judge([1.0, 3.0, 2.0, 4.0]))
    assert batches == [[(0, 1)], [(1, 2)], [(1, 3)]]


def test_ties_go_to_the_lower_index_everywhere() -> None:
    for method in PLANS:
        ranking, _ = run(method, RankTask(9), lambda i, j: 0.5)
        assert ranking.order == tuple(range(9)), method


def test_scores_are_mean_win_probabilities() -> None:
    table = {(0, 1): 0.9, (0, 2): 0.6, (1, 2): 0.2}
    ranking, _ = run("all_pairs", RankTask(3), lambda i, j: table[i, j])
    assert [r.score for r in ranking.results] == pytest.approx([0.75, 0.15, 0.6])
    assert ranking.win_matrix is not None
    assert ranking.win_matrix[2] == pytest.approx((0.4, 0.8, None))
    strengths = [r.strength for r in ranking.results]
    assert None not in strengths
    assert all(r.stderr is not None and r.stderr > 0 for r in ranking.results)


def test_strengths_are_for_all_pairs_and_adaptive() -> None:
    for method in ("pivot", "swiss", "knockout", "linear"):
        ranking, _ = run(method, RankTask(4), lambda i, j: 0.7)  # type: ignore[arg-type]
        assert all(r.strength is None and r.stderr is None for r in ranking.results)
    quick, _ = run("all_pairs", RankTask(4, strengths=False), lambda i, j: 0.7)
    assert all(r.strength is None for r in quick.results)


def test_one_response_needs_no_judge() -> None:
    for method in PLANS:
        ranking, batches = run(method, RankTask(1), lambda i, j: 1 / 0)
        assert (ranking.order, ranking.comparisons, batches) == ((0,), 0, [])
        assert ranking.results[0].score == 0.5


def test_a_budget_of_all_pairs_is_spread_evenly() -> None:
    """12 of 28 pairs among 8: each response is in exactly three of them."""
    ranking, (batch,) = run("all_pairs", RankTask(8, max_comparisons=12), true_judge([float(i) for i in range(8)]))
    met = [sum(i in pair for pair in batch) for i in range(8)]
    assert (met, ranking.comparisons, ranking.stopped) == ([3] * 8, 12, "budget")
    assert ranking.order[0] in (6, 7)


@pytest.mark.parametrize("method", ["knockout", "linear", "pivot", "swiss", "all_pairs"])
def test_a_spent_budget_is_said(method: Method) -> None:
    judge = true_judge([0.0, 1.0, 2.0, 3.0, 4.0])
    ranking, _ = run(method, RankTask(5, "best", max_comparisons=3), judge)
    assert (ranking.comparisons, ranking.stopped) == (3, "budget")
    enough, _ = run(method, RankTask(5, "best", max_comparisons=10), judge)
    assert enough.stopped != "budget"


def test_what_duels_leave_open_knows_the_opponents_strength() -> None:
    """After 0 > 1 and 2 > 3 and 0 > 2: losing closely to the best outranks losing to the runner-up."""
    table = {(0, 1): 0.55, (2, 3): 0.9, (0, 2): 0.6}
    ranking, _ = run("knockout", RankTask(4), lambda i, j: table[i, j])
    assert ranking.order == (0, 1, 2, 3)


def test_auto_picks_by_size_and_goal() -> None:
    large = AUTO_ALL_PAIRS_MAX + 1
    names = {
        (AUTO_ALL_PAIRS_MAX, "order"): all_pairs,
        (AUTO_ALL_PAIRS_MAX, "best"): all_pairs,
        (large, "order"): pivot,
        (large, "best"): knockout,
    }
    for (n, goal), expected in names.items():
        assert auto(RankTask(n, goal)).gi_code is expected(RankTask(n, goal)).gi_code  # type: ignore[arg-type, attr-defined]
    assert auto(RankTask(large, "top_k", 2)).gi_code is knockout(RankTask(large)).gi_code  # type: ignore[attr-defined]
    assert linear is PLANS["linear"]


def test_missing_pairs_count_as_the_fit_predicts_them() -> None:
    """0 > 1 > 2 strongly: the unjudged pair (0, 2) must enter the scores as a likely win, not as one half."""
    scores = mean_win_probabilities([[None, 0.9, None], [0.1, None, 0.9], [None, 0.1, None]])
    assert scores[0] > 0.9
    assert scores[1] == pytest.approx(0.5)
    assert scores[2] < 0.1


@pytest.mark.parametrize(("told", "error"), [([math.nan], NonFiniteScore), ([1.5], InternalError), ([], InternalError)])
def test_a_failed_judgment_is_never_ranked(told: list[float], error: type[Exception]) -> None:
    for method in PLANS:
        plan = PLANS[method](RankTask(2))
        next(plan)
        with pytest.raises(error):
            plan.send(told)


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"n": MAX_RESPONSES + 1},
        {"n": 3, "top_k": 2},
        {"n": 3, "goal": "top_k"},
        {"n": 3, "goal": "top_k", "top_k": 4},
        {"n": 3, "goal": "top_k", "top_k": 0},
        {"n": 3, "max_comparisons": 0},
        {"n": 3, "confidence": 1.0},
        {"n": 3, "confidence": math.nan},
        {"n": 3, "pivot": 3},
    ],
)
def test_impossible_tasks_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        RankTask(**options)  # type: ignore[arg-type]
