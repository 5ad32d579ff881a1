"""The adaptive plan: the best for few comparisons, confidence that is kept, all-pairs' answer when all is asked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranking.belief import believe
from service.ranking.board import Goal, RankTask
from service.ranking.strength import win_probability
from tests.service.ranking.test_plans import QUALITIES, Judge, noisy_judge, run, true_judge
from tests.support.properties import bar

SEEDS = st.integers(0, 10**6)


def judge_with_noise(qualities: list[float], sd: float, seed: int) -> Judge:
    """Bradley-Terry with normal noise on the log-odds; the same pair gets the same answer whenever it is asked."""

    def judge(i: int, j: int) -> float:
        noise = random.Random(f"{seed}/{min(i, j)}/{max(i, j)}").gauss(0.0, sd)
        return win_probability(qualities[i] - qualities[j] + (noise if i < j else -noise))

    return judge


def drawn(n: int, seed: int, spread: float = 2.0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(0.0, spread) for _ in range(n)]


@bar(1_000)
@given(QUALITIES)
def test_a_true_judge_gets_its_best(qualities: list[float]) -> None:
    """Without noise the best found is within the zone of indifference (qualities are a quarter of a nat apart)."""
    ranking, _ = run("adaptive", RankTask(len(qualities), "best"), true_judge(qualities))
    assert qualities[ranking.order[0]] >= max(qualities) - 0.25
    assert ranking.stopped in ("decided", "complete")


@bar(500)
@given(st.integers(2, 10), st.randoms(use_true_random=False), st.sampled_from(["order", "best"]))
def test_asking_everything_ends_as_all_pairs(n: int, generator: random.Random, goal: Goal) -> None:
    """The same scores, and the same strengths, whenever the plan had to ask for every pair."""
    answers = {(i, j): generator.random() for i in range(n) for j in range(i + 1, n)}
    ranking, _ = run("adaptive", RankTask(n, goal, confidence=1 - 1e-12), lambda i, j: answers[i, j])
    full, _ = run("all_pairs", RankTask(n), lambda i, j: answers[i, j])
    if ranking.comparisons == len(answers):
        assert ranking.order == full.order
        assert [r.score for r in ranking.results] == [r.score for r in full.results]
        fitted = [r.strength for r in full.results]
        assert [r.strength for r in ranking.results] == pytest.approx(fitted, abs=1e-6)


def test_confidence_is_kept_under_noise() -> None:
    """Of rankings decided at 0.9, nine of ten name a response that all pairs put within the zone of indifference."""
    kept = decided = asked = 0
    for seed in range(60):
        n, judge = 12, judge_with_noise(drawn(12, seed), 1.0, seed)
        ranking, _ = run("adaptive", RankTask(n, "best", confidence=0.9), judge)
        wins = [[None if i == j else judge(i, j) for j in range(n)] for i in range(n)]
        strengths = believe(wins).strengths
        decided += ranking.stopped == "decided"
        kept += strengths[ranking.order[0]] >= max(strengths) - 0.2
        asked += ranking.comparisons
    assert decided >= 55
    assert kept >= 54
    assert asked / 60 < 0.5 * 66


@bar(300)
@given(st.integers(9, 16), SEEDS, st.sampled_from([0.0, 1.0]))
def test_best_of_n_costs_a_fraction(n: int, seed: int, sd: float) -> None:
    ranking, _ = run("adaptive", RankTask(n, "best", max_comparisons=3 * n), judge_with_noise(drawn(n, seed), sd, seed))
    assert ranking.comparisons <= 3 * n
    assert ranking.stopped in ("decided", "budget")


@pytest.mark.parametrize(("goal", "k"), [("best", None), ("top_k", 4), ("order", None)])
def test_a_looser_confidence_asks_less(goal: Goal, k: int | None) -> None:
    def asked(confidence: float) -> int:
        return sum(
            run("adaptive", RankTask(16, goal, k, confidence), judge_with_noise(drawn(16, s), 0.7, s))[0].comparisons
            for s in range(8)
        )

    assert asked(0.6) < asked(0.95) < asked(0.9999) <= 8 * 120


def test_top_k_decides_which_not_in_what_order() -> None:
    """Two good equals and many bad ones: settled without the pairs among the bad."""
    qualities = [4.0, -1.0, -2.0, 4.0, *[-3.0 - i / 4 for i in range(12)]]
    ranking, _ = run("adaptive", RankTask(16, "top_k", 2), true_judge(qualities))
    assert set(ranking.order[:2]) == {0, 3}
    assert (ranking.stopped, ranking.comparisons < 40) == ("decided", True)


def test_equals_at_the_top_do_not_cost_every_pair() -> None:
    """A judge that sees no difference says so again: the plan stops once the equals have met."""
    qualities = [3.0] * 4 + [-2.0] * 12
    ranking, _ = run("adaptive", RankTask(16, "best"), true_judge(qualities))
    assert ranking.order[0] < 4
    assert ranking.stopped == "decided"
    assert ranking.comparisons <= 48


def test_a_cycle_at_the_top_ends_and_costs_more() -> None:
    """a > b > c > a above nine clear losers; the noise it stands for is said in the errors."""

    def cyclic(i: int, j: int) -> float:
        if i < 3 and j < 3:
            return 0.9 if (j - i) % 3 == 1 else 0.1
        return 0.97 if i < 3 else 0.03 if j < 3 else 0.5

    def plain(i: int, j: int) -> float:
        return 0.5 if i < 3 and j < 3 else cyclic(i, j)

    with_cycle, _ = run("adaptive", RankTask(12, "best"), cyclic)
    without, _ = run("adaptive", RankTask(12, "best"), plain)
    assert with_cycle.order[0] < 3
    assert without.order[0] < 3
    errors = [sum(r.stderr or 0.0 for r in ranking.results[:3]) for ranking in (with_cycle, without)]
    assert errors[0] > errors[1]


@bar(300)
@given(st.integers(1, 12), st.randoms(use_true_random=False), st.sampled_from(["order", "best"]))
def test_equal_answers_give_equal_questions(n: int, generator: random.Random, goal: Goal) -> None:
    seed = generator.randrange(10**6)
    first, asked = run("adaptive", RankTask(n, goal), judge_with_noise(drawn(n, seed), 1.0, seed))
    second, again = run("adaptive", RankTask(n, goal), judge_with_noise(drawn(n, seed), 1.0, seed))
    assert (first, asked) == (second, again)


@bar(300)
@given(st.integers(2, 12), st.randoms(use_true_random=False))
def test_strengths_and_errors_are_finite(n: int, generator: random.Random) -> None:
    ranking, _ = run("adaptive", RankTask(n, "best"), noisy_judge(generator))
    for result in ranking.results:
        assert result.strength is not None
        assert result.stderr is not None
        assert abs(result.strength) < 100
        assert 0.0 <= result.stderr < 100


def test_batches_keep_an_engine_busy() -> None:
    """No batch has fewer than four pairs, unless fewer are left."""
    _, batches = run("adaptive", RankTask(16, "order"), judge_with_noise(drawn(16, 3), 1.0, 3))
    assert all(len(batch) >= 4 for batch in batches[:-1])
    _, batches = run("adaptive", RankTask(16, "best"), judge_with_noise(drawn(16, 3), 1.0, 3))
    assert [len(batch) for batch in batches[:3]] == [8, 4, 4]
    assert all(len(batch) >= 4 for batch in batches)


def test_the_end_of_a_budget_is_asked_one_by_one() -> None:
    """A batch never takes more than half of what is left, so that each of the last answers chooses the next pair."""
    judge = judge_with_noise(drawn(16, 3), 1.0, 3)
    for budget, sizes in ((15, [8, 4, 1, 1, 1]), (18, [8, 4, 3, 1, 1, 1])):
        _, batches = run("adaptive", RankTask(16, "best", confidence=1 - 1e-12, max_comparisons=budget), judge)
        assert [len(batch) for batch in batches] == sizes


def test_the_opening_pairs_clear_winners() -> None:
    """Winners by 3, 1, 2 and 4 nats: 4 meets 3, 2 meets 1."""
    table = {(0, 1): 3.0, (2, 3): 1.0, (4, 5): 2.0, (6, 7): 4.0}
    _, batches = run("adaptive", RankTask(8, "best"), lambda i, j: win_probability(table.get((i, j), 0.5)))
    assert batches[1] == [(0, 6), (2, 4)]


def test_close_losers_meet_before_the_best_of_the_weak_is_judged() -> None:
    """A knockout's final would be 0 against 4. But 4 has won by nothing only, and 0 beat 1 and 2 by a tenth or two."""
    qualities = [6.0, 5.9, 5.8, -6.0, 0.0, -0.05, -0.02, -0.04]
    ranking, batches = run("adaptive", RankTask(8, "best", max_comparisons=7), true_judge(qualities))
    assert batches == [[(0, 1), (2, 3), (4, 5), (6, 7)], [(0, 2), (4, 6)], [(1, 2)]]
    assert (ranking.order[:3], ranking.stopped) == ((0, 1, 2), "budget")


def test_ahead_of_knockout_and_linear_on_the_same_budget() -> None:
    """n - 1 comparisons, four equals-but-a-little at the top of 16, and a judge with noise: more often the best."""
    right = dict.fromkeys(("adaptive", "knockout", "linear"), 0)
    for seed in range(80):
        generator = random.Random(seed)
        qualities = [generator.gauss(0.0, 0.5) + (4.0 if i < 4 else 0.0) for i in range(16)]
        generator.shuffle(qualities)
        judge = judge_with_noise(qualities, 0.3, seed)
        wins = [[None if i == j else judge(i, j) for j in range(16)] for i in range(16)]
        strengths = believe(wins).strengths
        for method in right:
            ranking, _ = run(method, RankTask(16, "best", max_comparisons=15), judge)
            assert ranking.comparisons == 15
            right[method] += strengths[ranking.order[0]] == max(strengths)
    assert right["adaptive"] > max(right["knockout"], right["linear"])


@pytest.mark.parametrize("goal", ["best", "order"])
def test_64_responses_take_few_fits(goal: Goal) -> None:
    """A fit over 64 responses costs milliseconds. One belongs to each batch, and batches grow with what was asked."""
    judge = judge_with_noise(drawn(64, 1), 0.7, 1)
    answers = {(i, j): judge(i, j) for i in range(64) for j in range(i + 1, 64)}
    _, batches = run("adaptive", RankTask(64, goal, max_comparisons=400), lambda i, j: answers[i, j])
    assert len(batches) <= 20
