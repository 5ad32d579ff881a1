"""The adaptive plan: ask the pairs that matter most, and stop when the goal is decided.

After two knockout rounds it alternates between a belief (`service.ranking.belief`) and a batch of pairs. *Decided*
means: the chance that judging all the other pairs would change the answer by more than `INDIFFERENCE` is at most 1 -
``confidence``. The yardstick is what ``all_pairs`` would say, because a judge that is asked the same pair again
answers the same: where it contradicts itself or sees no difference, more questions do not help and the plan stops.

A pair is worth the product of two chances: that judging everything would put each of its responses on the other side
of the line that the goal draws. Questions so go to the leader and its challengers, as in top-two rules (Russo 2020,
https://doi.org/10.1287/opre.2019.1911), wherever the challenger stands: a response that lost by little is asked about
again before one that won by little among the weak. That is what pays under a tight budget, for n - 1 duels are just
enough for everybody but one to lose once: what is to be looked at twice must be saved where nobody expects the best.
An order has a line between all neighbours, and its pairs count by the information expected from them too, as in
Crowd-BT (Chen et al. 2013, https://doi.org/10.1145/2433396.2433420).

The zone of indifference is Bechhofer's (1954, https://doi.org/10.1214/aoms/1177728845). Nothing is random: equal
answers give equal questions.
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
OPENING_ROUNDS = 2
"""One leaves most winners with a single margin to judge them by; after three a budget of n - 1 is nearly spent."""


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
        yield from board.ask(_most_valuable(doubts, pairs, _batch_size(board)))
        belief = believe(board.wins, belief.strengths)
    return board.ranking(
        (),
        expected_scores(board.wins, belief.strengths),
        "decided" if decided else "complete",
        belief.strengths,
        belief.standard_errors(),
    )


def _opening(board: Board) -> Generator[list[Pair], Sequence[float], None]:
    """Two rounds of a seeded knockout: in the second those who won most clearly meet each other.

    Everybody is judged, and 3 n / 4 comparisons leave n / 4 without a loss. For an order, everybody meets both
    neighbours of the input.
    """
    n = board.task.n
    if board.task.goal == "order":
        yield from board.ask([(i, i + 1) for i in range(n - 1)])
        return
    entrants = list(range(n))
    for _ in range(OPENING_ROUNDS):
        duels = [(min(pair), max(pair)) for pair in zip(entrants[::2], entrants[1::2], strict=False)]
        yield from board.ask(duels)
        losers = board.losers(duels)
        won = [math.fsum(p for p in row if p is not None) for row in board.wins]
        entrants = sorted((i for i in entrants if i not in losers), key=lambda i: (-won[i], i))


def _batch_size(board: Board) -> int:
    """Large enough to keep an engine busy (each pair is two prompts), and growing with what is known already.

    Of a budget never more than half of what is left: the last questions are chosen one at a time.
    """
    size = max(4, board.task.n // 4, board.comparisons // 4)
    budget = board.task.max_comparisons
    return size if budget is None else min(size, max(1, (budget - board.comparisons) // 2))


def _unjudged(board: Board) -> list[Pair]:
    n = board.task.n
    return [(i, j) for i in range(n) for j in range(i + 1, n) if board.wins[i][j] is None]


def _most_valuable(doubts: _Doubts, pairs: list[Pair], size: int) -> list[Pair]:
    """The ``size`` most valuable pairs, most valuable first; each further pair of a response in a batch counts less."""
    values = [(doubts.worth(i, j), i, j) for i, j in pairs]
    best = sorted(values, key=lambda one: (-one[0], one[1], one[2]))[: 4 * size]
    times = [1] * len(doubts.of)
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

    ``total`` sums over the responses that may cross it by more than the zone of indifference: an upper bound of the
    chance that any does. ``of`` has each response's own chance to be on the wrong side, by however little, at least
    `LEAST_DOUBT`: against the last response in place, which is 1/2 itself; for an order, against its neighbours.
    """

    def __init__(self, belief: Belief, task: RankTask) -> None:
        self._belief, self._for_order, self._moves = belief, task.goal == "order", dict[Pair, float]()
        order = sorted(range(task.n), key=lambda i: (-belief.strengths[i], i))
        self.of = [LEAST_DOUBT] * task.n
        if self._for_order:
            self.total = math.fsum(self._overtakes(j, i, INDIFFERENCE) for i, j in pairwise(order))
            for i, j in pairwise(order):
                chance = self._overtakes(j, i)
                self.of[i], self.of[j] = max(self.of[i], chance), max(self.of[j], chance)
            return
        above, below = order[: task.places], order[task.places :]
        self.total = math.fsum(max(self._overtakes(j, i, INDIFFERENCE) for i in above) for j in below)
        for i in above:
            self.of[i] = max(LEAST_DOUBT, self._overtakes(above[-1], i))
        for j in below:
            self.of[j] = max(LEAST_DOUBT, self._overtakes(j, above[-1]))

    def worth(self, i: int, j: int) -> float:
        """Of judging i against j, in no unit of its own."""
        return self.of[i] * self.of[j] * (self._belief.gain(i, j) if self._for_order else 1.0)

    def _overtakes(self, low: int, high: int, lead: float = 0.0) -> float:
        """The chance that judging all pairs would put ``low`` above ``high`` by more than ``lead`` nats."""
        if (low, high) not in self._moves:
            self._moves[low, high] = max(self._belief.still_to_move(low, high), 1e-9)
        gap = self._belief.strengths[high] - self._belief.strengths[low] + lead
        return 0.5 * math.erfc(gap / (math.sqrt(2.0) * self._moves[low, high]))
