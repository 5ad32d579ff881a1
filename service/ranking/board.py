"""What every ranking plan shares: its task, its types, and the board on which answers are kept."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.errors import InternalError, InvalidInput, NonFiniteScore
from service.ranking.strength import WinMatrix, fit_strengths, judged_pairs, win_probability
from service.types import RankedResponse, Ranking

Pair = tuple[int, int]
Plan = Generator[list[Pair], Sequence[float], Ranking]
Goal = Literal["order", "best", "top_k"]
Stopped = Literal["decided", "budget", "complete"]

MAX_RESPONSES = 64


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
class Board:
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

    def losers(self, duels: Sequence[Pair]) -> dict[int, int]:
        """Loser -> winner of the judged duels; at exactly 0.5 the lower index, which stands first, wins."""
        decided: dict[int, int] = {}
        for i, j in duels:
            p = self.wins[i][j]
            if p is not None:
                decided.update({j: i} if p >= 0.5 else {i: j})
        return decided

    def ranking(
        self,
        placed: Sequence[int],
        scores: Sequence[float],
        stopped: Stopped,
        strengths: Sequence[float] | None = None,
        errors: Sequence[float] | None = None,
    ) -> Ranking:
        """`placed` first, in order; the rest by score, then index."""
        n = self.task.n
        rest = sorted(set(range(n)) - set(placed), key=lambda i: (-scores[i], i))
        ranks = {index: rank for rank, index in enumerate([*placed, *rest])}
        unknown: list[float | None] = [None] * n
        columns = zip(range(n), scores, strengths or unknown, errors or unknown, strict=True)
        results = tuple(RankedResponse(i, ranks[i], score, strength, error) for i, score, strength, error in columns)
        matrix = tuple(map(tuple, self.wins))
        return Ranking(results, self.comparisons, "budget" if self.over_budget else stopped, None, matrix)


def mean_win_probabilities(wins: WinMatrix) -> list[float]:
    """For each response the mean over all others of P(better than it); 0.5 for one that has no others.

    Pairs that were not judged count as Bradley-Terry predicts them from those that were.
    """
    n = len(wins)
    complete = all(wins[i][j] is not None for i in range(n) for j in range(n) if i != j)
    return expected_scores(wins, [0.0] * n if complete else fit_strengths(n, judged_pairs(wins)))


def expected_scores(wins: WinMatrix, strengths: Sequence[float]) -> list[float]:
    """`mean_win_probabilities` for strengths already fitted; complete matrices do not look at them.

    `fsum` makes the mean of a complete matrix independent of the input order, bit for bit.
    """
    n = len(wins)

    def expected(i: int, j: int) -> float:
        judged = wins[i][j]
        return win_probability(strengths[i] - strengths[j]) if judged is None else judged

    return [math.fsum(expected(i, j) for j in range(n) if j != i) / (n - 1) if n > 1 else 0.5 for i in range(n)]


def _checked(batch: list[Pair], told: Sequence[float]) -> Sequence[float]:
    """One probability for each pair. Raises `NonFiniteScore`, or `InternalError` for a driver's mistake."""
    if len(told) != len(batch):
        raise InternalError("A ranking plan was told another number of verdicts; report this with the request id.")
    if not all(math.isfinite(p) for p in told):
        raise NonFiniteScore("The judge gave a probability that is not finite; check the checkpoint.")
    if not all(0.0 <= p <= 1.0 for p in told):
        raise InternalError("A probability lies outside [0, 1]; report this with the request id.")
    return told
