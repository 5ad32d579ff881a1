"""Which pairs to judge, and how the answers become a ranking: pure generators, no I/O.

A plan yields batches of index pairs and is sent, for each pair ``(i, j)``, P(i better than j) over both display orders;
the driver decides how a batch is judged. It ends with a `Ranking` whose ``consistency`` the driver fills in, for a plan
does not see the two orders. Pairs have i < j (but for a chosen pivot) and stand sorted in their batch, so that pairs
that show the same response first are neighbours and share its prefix in the engine's cache.

One rule for ties everywhere: a duel at exactly 0.5 is won by, and equal scores are ranked by, the lower input index.

Comparator sorts are not used: a judge is noisy and may have cycles (a > b > c > a), under which they end anywhere.
Every plan here ends after a bounded number of comparisons with a permutation, whatever it is told.
``docs/ranking.md`` says which plan is for what.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from service.ranking.adaptive import adaptive
from service.ranking.board import Board, Pair, Plan, RankTask, mean_win_probabilities
from service.ranking.strength import bradley_terry
from service.ranking.swiss import swiss, swiss_rounds

Method = Literal["auto", "all_pairs", "pivot", "swiss", "knockout", "linear", "adaptive"]

AUTO_ALL_PAIRS_MAX = 8
"""Up to here ``auto`` judges every pair: 28 comparisons, against 7 that a knockout would bet on single duels."""


def all_pairs(task: RankTask) -> Plan:
    """Every unordered pair, n(n-1)/2, in one batch; score = mean over the others of P(better than it).

    With strengths by Bradley-Terry. A budget below that judges rounds of disjoint pairs, so that all responses meet
    about equally many others, and the missing pairs enter the scores as the fit predicts them.
    """
    board = Board(task)
    yield from board.ask(_round_robin(task.n))
    fit = bradley_terry(board.wins) if task.strengths and task.n > 1 else (None, None)
    return board.ranking((), mean_win_probabilities(board.wins), "complete", *fit)


def pivot(task: RankTask) -> Plan:
    """All others against one response, n - 1 comparisons in one batch; score = P(better than the pivot), its own 0.5.

    Right about which responses beat the pivot; among those on one side of it the order is as good as probabilities are.
    A response that the budget left out scores 0.5, which is what the pivot says of it: nothing.
    """
    board = Board(task)
    chosen = task.pivot
    yield from board.ask([(chosen, j) for j in range(task.n) if j != chosen])
    against = (row[chosen] for row in board.wins)
    return board.ranking((), [0.5 if p is None else p for p in against], "complete")


def knockout(task: RankTask) -> Plan:
    """Rounds of duels between neighbours, an odd one out passing to the next round: n - 1 comparisons for the best.

    For ``top_k`` each next place is played out among those who lost only to responses already placed, about log2(n)
    more comparisons a place. A judge without cycles gets these places right. What the duels leave open is ordered by
    expected score (see `mean_win_probabilities`); goal ``order`` asks no more than ``best``.
    """
    board = Board(task)
    beaten_by: dict[int, set[int]] = {i: set() for i in range(task.n)}
    placed: list[int] = []
    while len(placed) < task.places:
        entrants = [i for i in range(task.n) if i not in placed and beaten_by[i] <= set(placed)]
        while len(entrants) > 1 and not board.over_budget:
            duels = list(zip(entrants[::2], entrants[1::2], strict=False))
            yield from board.ask(duels)
            losers = board.losers(duels)
            for loser, winner in losers.items():
                beaten_by[loser].add(winner)
            entrants = [i for i in entrants if i not in losers]
        if board.over_budget:
            break
        placed.append(entrants[0])
    scores = mean_win_probabilities(board.wins)
    return board.ranking(placed, scores, "complete" if task.goal == "order" else "decided")


def linear(task: RankTask) -> Plan:
    """GRAM's list-wise scan (https://arxiv.org/abs/2506.14175): the best so far meets the next, n - 1 single duels.

    It decides the best only (given a judge without cycles); the rest is ordered by expected score.
    """
    board = Board(task)
    best = 0
    for challenger in range(1, task.n):
        yield from board.ask([(best, challenger)])
        if board.over_budget:
            break
        best = challenger if best in board.losers([(best, challenger)]) else best
    placed = [] if board.over_budget else [best]
    finished = task.goal == "best" or (task.goal == "top_k" and task.places == 1)
    return board.ranking(placed, mean_win_probabilities(board.wins), "decided" if finished else "complete")


def auto(task: RankTask) -> Plan:
    """All pairs up to `AUTO_ALL_PAIRS_MAX` responses; above, a pivot for an order, else a knockout."""
    if task.n <= AUTO_ALL_PAIRS_MAX:
        return all_pairs(task)
    return pivot(task) if task.goal == "order" else knockout(task)


PLANS: dict[Method, Callable[[RankTask], Plan]] = {
    "auto": auto,
    "all_pairs": all_pairs,
    "pivot": pivot,
    "swiss": swiss,
    "knockout": knockout,
    "linear": linear,
    "adaptive": adaptive,
}


def most_pairs(method: Method, n: int, places: int = 1) -> int:
    """An upper bound on the pairs a plan asks for among ``n`` responses, with no budget set."""
    every = n * (n - 1) // 2
    if method in ("all_pairs", "adaptive") or (method == "auto" and n <= AUTO_ALL_PAIRS_MAX):
        return every
    if method in ("pivot", "linear"):
        return n - 1
    if method == "swiss":
        return swiss_rounds(n) * (n // 2)
    return min(every, 2 * n + places * math.ceil(math.log2(n)))


def _round_robin(n: int) -> list[Pair]:
    """All pairs in rounds of disjoint ones (the circle method): any leading part of it is spread evenly."""
    circle: list[int] = list(range(n)) + ([-1] if n % 2 else [])
    pairs: list[Pair] = []
    for _ in range(len(circle) - 1):
        opposite = zip(circle[: len(circle) // 2], reversed(circle), strict=False)
        pairs += [(min(i, j), max(i, j)) for i, j in opposite if -1 not in (i, j)]
        circle[1:] = [circle[-1], *circle[1:-1]]
    return pairs
