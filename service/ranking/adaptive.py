"""The adaptive plan: ask the pairs that matter most, and stop when the goal is decided.

After an opening knockout it alternates between a belief (`service.ranking.belief`) and a batch of pairs. *Decided*
means: the chance that judging all the other pairs would change the answer by more than `INDIFFERENCE` is at most 1 -
``confidence``. The yardstick is what ``all_pairs`` would say, because a judge that is asked the same pair again
answers the same: where it contradicts itself or sees no difference, more questions do not help and the plan stops.

A pair's value is the information expected from it (`Belief.gain`) times the doubt about both of its responses:
questions go to the top and its challengers, as in top-two rules (Russo 2020, https://doi.org/10.1287/opre.2019.1911),
by information gain, as in Crowd-BT (Chen et al. 2013, https://doi.org/10.1145/2433396.2433420). The zone of
indifference is Bechhofer's (1954, https://doi.org/10.1214/aoms/1177728845). Nothing is random: equal answers give
equal questions.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import pairwise

from service.ranking.belief import Belief, believe
from service.ranking.board import Board, Pair, Plan, RankTask, expected_scores

INDIFFERENCE = 0.2
"""Nats: the better of two responses this close wins 55 % of the time, and either may be called the best."""
LEAST_DOUBT = 0.001
"""No response is left out of the questions altogether, for each also tells where the others stand."""


def adaptive(task: RankTask) -> Plan:
    """Few comparisons for a goal and a confidence; strengths with standard errors. Ends with all pairs at the latest.

    ``best`` usually takes 1 to 2 n comparisons. ``top_k`` decides which k are the best, not their order; ``order``
    decides between all neighbours, which takes many of the pairs.
    """
    board = Board(task)
    yield from _opening(board)
    belief = believe(board.wins)
    decided = False
    while not board.over_budget and (pairs := _unjudged(board)):
        doubts = _Doubts(belief, task)
        decided = doubts.total <= 1.0 - task.confidence
        if decided:
            break
        yield from board.ask(_most_valuable(belief, doubts.of, pairs, _batch_size(board)))
        belief = believe(board.wins, belief.strengths)
    return board.ranking(
        (),
        expected_scores(board.wins, belief.strengths),
        "decided" if decided else "complete",
        belief.strengths,
        belief.standard_errors(),
    )


def _opening(board: Board) -> Generator[list[Pair], Sequence[float], None]:
    """A seeded knockout, n - 1 comparisons: in each round those who won most clearly meet each other.

    It leaves a candidate and a tree of judged pairs; what follows checks both. Under a budget of n - 1 this is the best
    that was found: choosing by belief from the second or third round on did worse. For an order, everybody meets both
    neighbours of the input.
    """
    n = board.task.n
    if board.task.goal == "order":
        yield from board.ask([(i, i + 1) for i in range(n - 1)])
        return
    entrants = list(range(n))
    while len(entrants) > 1 and not board.over_budget:
        duels = [(min(pair), max(pair)) for pair in zip(entrants[::2], entrants[1::2], strict=False)]
        yield from board.ask(duels)
        losers = board.losers(duels)
        won = [math.fsum(p for p in row if p is not None) for row in board.wins]
        entrants = sorted((i for i in entrants if i not in losers), key=lambda i: (-won[i], i))


def _batch_size(board: Board) -> int:
    """Large enough to keep an engine busy (each pair is two prompts), and growing with what is known already.

    Of a budget never more than half of what is left, so that the last questions are the best chosen ones.
    """
    size = max(4, board.task.n // 4, board.comparisons // 4)
    budget = board.task.max_comparisons
    return size if budget is None else min(size, max(1, (budget - board.comparisons + 1) // 2))


def _unjudged(board: Board) -> list[Pair]:
    n = board.task.n
    return [(i, j) for i in range(n) for j in range(i + 1, n) if board.wins[i][j] is None]


def _most_valuable(belief: Belief, doubts: Sequence[float], pairs: list[Pair], size: int) -> list[Pair]:
    """The ``size`` most valuable pairs, most valuable first; each further pair of a response in a batch counts less."""
    values = [(doubts[i] * doubts[j] * belief.gain(i, j), i, j) for i, j in pairs]
    best = sorted(values, key=lambda one: (-one[0], one[1], one[2]))[: 4 * size]
    times = [1] * len(doubts)
    chosen: list[Pair] = []
    while best and len(chosen) < size:
        value, i, j = max(best, key=lambda one: one[0] / (times[one[1]] * times[one[2]]))
        best.remove((value, i, j))
        chosen.append((i, j))
        times[i] += 1
        times[j] += 1
    return chosen


class _Doubts:
    """How likely judging everything would move responses across the line that the goal draws.

    ``total`` sums over the responses that may cross it: an upper bound of the chance that any does. ``of`` has the
    largest doubt that each response takes part in, at least `LEAST_DOUBT`.
    """

    def __init__(self, belief: Belief, task: RankTask) -> None:
        order = sorted(range(task.n), key=lambda i: (-belief.strengths[i], i))
        self.total = 0.0
        self.of = [LEAST_DOUBT] * task.n
        for above, below in _rivals(order, task):
            for j in below:
                largest = 0.0
                for i in above:
                    doubt = _overtakes(belief, j, i)
                    largest = max(largest, doubt)
                    self.of[i] = max(self.of[i], doubt)
                self.of[j] = max(self.of[j], largest)
                self.total += largest


def _rivals(order: list[int], task: RankTask) -> list[tuple[list[int], list[int]]]:
    """The lines to decide, each as the responses above and those below it."""
    if task.goal == "order":
        return [([i], [j]) for i, j in pairwise(order)]
    return [(order[: task.places], order[task.places :])]


def _overtakes(belief: Belief, low: int, high: int) -> float:
    """The chance that judging all pairs would put ``low`` above ``high`` by more than the zone of indifference."""
    lead = belief.strengths[high] - belief.strengths[low] + INDIFFERENCE
    return 0.5 * math.erfc(lead / (math.sqrt(2.0) * max(belief.still_to_move(low, high), 1e-9)))
