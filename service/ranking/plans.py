"""Which pairs to judge, and how the answers become a ranking: pure generators, no I/O.

A plan yields batches of index pairs and is sent, for each pair ``(i, j)``, P(i better than j) over both display orders;
the driver decides how a batch is judged. It ends with a `Ranking` whose ``consistency`` the driver fills in, for a plan
does not see the two orders. Pairs have i < j (but for a chosen pivot) and stand sorted in their batch, so that pairs
that show the same response first are neighbours and share its prefix in the engine's cache.

One rule for ties everywhere: a duel at exactly 0.5 is won by, and equal scores are ranked by, the lower input index.

Comparator sorts are not used: a judge is noisy and may have cycles (a > b > c > a), under which they end anywhere.
Every plan here ends after a bounded number of comparisons with a permutation, whatever it is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.errors import InternalError, InvalidInput, NonFiniteScore
from service.ranking.strength import bradley_terry, win_probability
from service.types import RankedResponse, Ranking

Pair = tuple[int, int]
Plan = Generator[list[Pair], Sequence[float], Ranking]
Goal = Literal["order", "best", "top_k"]
Method = Literal["auto", "all_pairs", "pivot", "knockout", "linear"]
Stopped = Literal["decided", "budget", "complete"]

MAX_RESPONSES = 64
AUTO_ALL_PAIRS_MAX = 8
"""Up to here ``auto`` judges every pair: 28 comparisons, against 7 that a knockout would bet on single duels."""


@dataclass(frozen=True, slots=True)
class RankTask:
    """What to rank. ``n`` responses; ``top_k`` places count for goal ``top_k`` only; ``max_comparisons`` counts pairs.

    ``pivot`` is the response all others meet in the pivot plan. ``strengths`` switches the Bradley-Terry fit of
    complete matrices off where only scores are read (it costs O(n**3)). ``confidence`` is for adaptive plans.
    Raises `InvalidInput` for values out of range.
    """

    n: int
    goal: Goal = "order"
    top_k: int | None = None
    confidence: float = 0.95
    max_comparisons: int | None = None
    pivot: int = 0
    strengths: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_RESPONSES:
            raise InvalidInput(f"Rank 1 to {MAX_RESPONSES} responses.", field="responses")
        if (self.goal == "top_k") != (self.top_k is not None):
            raise InvalidInput("Send top_k with the goal top_k, and only then.", field="top_k")
        if self.top_k is not None and not 1 <= self.top_k <= self.n:
            raise InvalidInput("Set top_k from 1 to the number of responses.", field="top_k")
        if not 0.5 < self.confidence < 1.0:
            raise InvalidInput("Set confidence between 0.5 and 1.", field="confidence")
        if self.max_comparisons is not None and self.max_comparisons < 1:
            raise InvalidInput("Set max_comparisons to 1 or more.", field="max_comparisons")
        if not 0 <= self.pivot < self.n:
            raise InvalidInput("Choose the pivot among the responses.", field="pivot")

    @property
    def places(self) -> int:
        """How many top places the goal asks to decide by duels: 1, or top_k."""
        return self.top_k or 1


@dataclass(slots=True)
class _Board:
    """What has been judged so far, and how much may still be."""

    task: RankTask
    wins: list[list[float | None]] = field(init=False)
    comparisons: int = 0
    over_budget: bool = False

    def __post_init__(self) -> None:
        self.wins = [[None] * self.task.n for _ in range(self.task.n)]

    def ask(self, pairs: list[Pair]) -> Generator[list[Pair], Sequence[float], None]:
        """Judge what the budget allows of `pairs`, in their given order of importance."""
        limit = self.task.max_comparisons
        allowed = pairs if limit is None else pairs[: limit - self.comparisons]
        self.over_budget = self.over_budget or len(allowed) < len(pairs)
        if not allowed:
            return
        batch = sorted(allowed)
        for (i, j), p in zip(batch, _checked(batch, (yield batch)), strict=True):
            # Complements are exact here because the judge's are: see `service.aggregation`.
            self.wins[i][j], self.wins[j][i] = p, 1.0 - p
        self.comparisons += len(batch)

    def ranking(self, placed: Sequence[int], scores: Sequence[float], stopped: Stopped, fit: bool = False) -> Ranking:
        """`placed` first, in order; the rest by score, then index. With `fit`, strengths and standard errors."""
        rest = sorted(set(range(self.task.n)) - set(placed), key=lambda i: (-scores[i], i))
        ranks = {index: rank for rank, index in enumerate([*placed, *rest])}
        strengths, errors = bradley_terry(self.wins) if fit else (None, None)
        results = (
            RankedResponse(
                i,
                ranks[i],
                scores[i],
                None if strengths is None else strengths[i],
                None if errors is None else errors[i],
            )
            for i in range(self.task.n)
        )
        matrix = tuple(map(tuple, self.wins))
        return Ranking(tuple(results), self.comparisons, "budget" if self.over_budget else stopped, None, matrix)


def all_pairs(task: RankTask) -> Plan:
    """Every unordered pair, n(n-1)/2, in one batch; score = mean over the others of P(better than it).

    With strengths by Bradley-Terry. A budget below that judges rounds of disjoint pairs, so that all responses meet
    about equally many others, and the missing pairs enter the scores as the fit predicts them.
    """
    board = _Board(task)
    yield from board.ask(_round_robin(task.n))
    fit = task.strengths and task.n > 1
    return board.ranking((), mean_win_probabilities(board.wins), "complete", fit=fit)


def pivot(task: RankTask) -> Plan:
    """All others against one response, n - 1 comparisons in one batch; score = P(better than the pivot), its own 0.5.

    Right about which responses beat the pivot; among those on one side of it the order is as good as probabilities are.
    A response that the budget left out scores 0.5, which is what the pivot says of it: nothing.
    """
    board = _Board(task)
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
    board = _Board(task)
    beaten_by: dict[int, set[int]] = {i: set() for i in range(task.n)}
    placed: list[int] = []
    while len(placed) < task.places:
        entrants = [i for i in range(task.n) if i not in placed and beaten_by[i] <= set(placed)]
        while len(entrants) > 1 and not board.over_budget:
            duels = list(zip(entrants[::2], entrants[1::2], strict=False))
            yield from board.ask(duels)
            losers = _losers(board, duels)
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
    board = _Board(task)
    best = 0
    for challenger in range(1, task.n):
        yield from board.ask([(best, challenger)])
        if board.over_budget:
            break
        best = challenger if best in _losers(board, [(best, challenger)]) else best
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
    "knockout": knockout,
    "linear": linear,
}


def mean_win_probabilities(wins: Sequence[Sequence[float | None]]) -> list[float]:
    """For each response the mean over all others of P(better than it); 0.5 for one that has no others.

    Pairs that were not judged count as Bradley-Terry predicts them from those that were. `fsum` makes the mean of a
    complete matrix independent of the input order, bit for bit.
    """
    n = len(wins)
    if n == 1:
        return [0.5]
    complete = all(wins[i][j] is not None for i in range(n) for j in range(n) if i != j)
    strengths = [0.0] * n if complete else bradley_terry(wins)[0]

    def expected(i: int, j: int) -> float:
        judged = wins[i][j]
        return win_probability(strengths[i] - strengths[j]) if judged is None else judged

    return [math.fsum(expected(i, j) for j in range(n) if j != i) / (n - 1) for i in range(n)]


def _round_robin(n: int) -> list[Pair]:
    """All pairs in rounds of disjoint ones (the circle method): any leading part of it is spread evenly."""
    circle: list[int] = list(range(n)) + ([-1] if n % 2 else [])
    pairs: list[Pair] = []
    for _ in range(len(circle) - 1):
        opposite = zip(circle[: len(circle) // 2], reversed(circle), strict=False)
        pairs += [(min(i, j), max(i, j)) for i, j in opposite if -1 not in (i, j)]
        circle[1:] = [circle[-1], *circle[1:-1]]
    return pairs


def _losers(board: _Board, duels: list[Pair]) -> dict[int, int]:
    """Loser -> winner of the judged duels; at exactly 0.5 the first, who has the lower index, wins."""
    decided: dict[int, int] = {}
    for i, j in duels:
        p = board.wins[i][j]
        if p is not None:
            decided.update({j: i} if p >= 0.5 else {i: j})
    return decided


def _checked(batch: list[Pair], told: Sequence[float]) -> Sequence[float]:
    """One probability for each pair. Raises `NonFiniteScore`, or `InternalError` for a driver's mistake."""
    if len(told) != len(batch):
        raise InternalError("A ranking plan was told another number of verdicts; report this with the request id.")
    if not all(math.isfinite(p) for p in told):
        raise NonFiniteScore("The judge gave a probability that is not finite; check the checkpoint.")
    if not all(0.0 <= p <= 1.0 for p in told):
        raise InternalError("A probability lies outside [0, 1]; report this with the request id.")
    return told
