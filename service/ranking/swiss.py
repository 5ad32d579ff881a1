"""The Swiss plan: rounds in which responses of equal standing meet, O(n log n) comparisons for a whole order.

As in a Swiss-system tournament nobody is eliminated and nobody meets twice. Standing is the mean win probability so
far, which after r rounds tells about 2**r levels apart; scores are the expected win rates of the Bradley-Terry fit, so
that a loss against a strong opponent costs less than one against a weak one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.ranking.board import Board, Pair, Plan, RankTask, mean_win_probabilities


def swiss(task: RankTask) -> Plan:
    """ceil(log2 n) + 1 rounds of at most n / 2 disjoint pairs, one batch each; everybody is judged at least once.

    Against ``all_pairs`` it saves from 6 responses on: 40 of 120 comparisons for 16, 224 of 2,016 for 64.
    """
    board = Board(task)
    for _ in range(swiss_rounds(task.n)):
        yield from board.ask(_pairing(board))
    return board.ranking((), mean_win_probabilities(board.wins), "complete")


def swiss_rounds(n: int) -> int:
    """Rounds for n responses; no more than it takes for everybody to have met everybody."""
    return min(math.ceil(math.log2(n)) + 1, n - 1 + n % 2) if n > 1 else 0


def _pairing(board: Board) -> list[Pair]:
    """Best standing first, each meets the next it has not met; with an odd number one with most games sits out."""
    games = [sum(p is not None for p in row) for row in board.wins]
    points = [math.fsum(p for p in row if p is not None) for row in board.wins]
    standing = [won / played if played else 0.5 for won, played in zip(points, games, strict=True)]
    waiting = sorted(range(board.task.n), key=lambda i: (-standing[i], i))
    if len(waiting) % 2:
        waiting.remove(max(reversed(waiting), key=lambda i: games[i]))
    pairs: list[Pair] = []
    while waiting:
        first = waiting.pop(0)
        second = _next_unmet(board, first, waiting)
        if second is not None:
            waiting.remove(second)
            pairs.append((min(first, second), max(first, second)))
    return pairs


def _next_unmet(board: Board, first: int, waiting: Sequence[int]) -> int | None:
    return next((other for other in waiting if board.wins[first][other] is None), None)
