"""From judged items to scores: three ways to count a pair, two ways to treat a failed judgment, one way to average.

A way to count gives an item one or two *readings*, each 0 or 1; a unit (an item, or a best-of-n list) is right in a
reading if all its items are, and its value is the mean over its readings. So the single-order accuracy of a list is the
mean over both orders of "the best beats every loser", not a product of means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from training.evaluation.benchmarks.base import ScoreRule
from training.evaluation.items import Judged
from training.evaluation.statistics import Interval, clustered_interval

Readings = tuple[float, ...]


def two_orders(judged: Judged) -> Readings | None:
    """The mean probability of both orders decides (GRAM, arXiv 2506.14175). An exact tie is wrong."""
    p = judged.p_right
    return None if p is None else (float(p > 0.5),)


def single_order(judged: Judged) -> Readings | None:
    """Each order's own verdict, as two readings: what a script that judges every pair once reports on average."""
    right = judged.orders_right
    return None if right is None else (float(right[0]), float(right[1]))


def both_orders(judged: Judged) -> Readings | None:
    """JudgeBench's rule (arXiv 2410.12784): +1 for each order that is right, -1 for each wrong; above zero counts."""
    right, wrong = judged.orders_right, judged.orders_wrong
    if right is None or wrong is None:
        return None
    return (float(sum(right) - sum(wrong) > 0),)


def length_only(judged: Judged) -> Readings:
    """The longer response is taken to be the better one, without reading either. A coin decides on equal lengths, which
    an eighth of RewardBench's pairs have (bugs of one character)."""
    gap = len(judged.item.pair.chosen) - len(judged.item.pair.rejected)
    return (1.0 if gap > 0 else 0.5 if gap == 0 else 0.0,)


METRICS: dict[str, Callable[[Judged], Readings | None]] = {
    "two_orders": two_orders,
    "single_order": single_order,
    "both_orders": both_orders,
}


@dataclass(frozen=True, slots=True)
class Unit:
    """What a score counts: ``value`` in [0, 1]; None where a judgment failed."""

    cell: str
    group: str
    value: float | None


Units = dict[str, list[Unit]]
"""By cell."""


def units_of(judged: Sequence[Judged], metric: Callable[[Judged], Readings | None]) -> Units:
    """One unit for each stand-alone item and each list."""
    members: dict[str, list[Judged]] = {}
    for one in judged:
        members.setdefault(one.item.unit or f"item {one.item.pair.id}", []).append(one)
    units: Units = {}
    for group in members.values():
        unit = _unit(group, metric)
        units.setdefault(unit.cell, []).append(unit)
    return units


def _unit(members: Sequence[Judged], metric: Callable[[Judged], Readings | None]) -> Unit:
    item = members[0].item
    readings = [found for one in members if (found := metric(one)) is not None]
    if len(readings) < len(members):
        return Unit(item.cell, item.group, None)
    together = [min(values) for values in zip(*readings, strict=True)]
    return Unit(item.cell, item.group, sum(together) / len(together))


@dataclass(frozen=True, slots=True)
class Score:
    """A rule's value on some units. ``missing``: blocks or cells of the benchmark that the data does not have."""

    interval: Interval
    units: int
    missing: tuple[str, ...]


def score(rule: ScoreRule, units: Units, *, valid_only: bool = False) -> Score | None:
    """The rule's weighted mean over the units, with its clustered interval; None where it has no units at all.

    A failed judgment counts as wrong, or with ``valid_only`` not at all.
    """
    mine: list[Unit] = []
    names: list[str] = []
    for block in rule.blocks:
        found = [u for cell in block.cells for u in units.get(cell, ()) if u.value is not None or not valid_only]
        mine += found
        names += [block.name] * len(found)
    if not mine:
        return None
    present = set(names)
    weights = {block.name: block.weight for block in rule.blocks if block.name in present}
    values = [unit.value or 0.0 for unit in mine]
    interval = clustered_interval(values, [unit.group for unit in mine], names, weights)
    return Score(interval, len(mine), _missing(rule, units.keys()))


def _missing(rule: ScoreRule, present: Collection[str]) -> tuple[str, ...]:
    """Blocks without any cell by their names, single cells of the others by theirs."""
    names: list[str] = []
    for block in rule.blocks:
        gone = [cell for cell in block.cells if cell not in present]
        names += [block.name] if len(gone) == len(block.cells) else gone
    return tuple(names)
