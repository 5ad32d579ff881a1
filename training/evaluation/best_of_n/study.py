"""Samples and scores in, curves out: what best-of-n gains by the proxy's own measure, and what it gains in truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from service.ranking.plans import Method
from service.types import Prompt
from training.evaluation.best_of_n.curves import best_of_k, doublings, kl_bound, spearman
from training.evaluation.best_of_n.duels import Contest, Duel, Duels, Pick, run_plan
from training.evaluation.statistics import Interval, PairedTest, clustered_interval, paired_test


@dataclass(frozen=True, slots=True)
class Group:
    """The samples of one prompt under one seed. ``answer`` is what a checker compares with, where one is known."""

    id: str
    seed: int
    prompt: Prompt
    reference: str
    responses: tuple[str, ...]
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A group with each sample's proxy and oracle score, both in [0, 1]."""

    group: Group
    proxy: tuple[float, ...]
    oracle: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """Best-of-``n``: both scores of the chosen sample, ``kl`` in nats, ``comparisons`` a prompt."""

    n: int
    kl: float
    proxy: Interval
    oracle: Interval
    comparisons: float


@dataclass(frozen=True, slots=True)
class Curve:
    """How samples were chosen, and what came of it."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """``gain`` and ``lost`` are paired by group: the oracle's score at the largest n against n = 1, and against its own
    best n. ``correlation`` is the mean rank correlation of proxy and oracle within a prompt."""

    groups: int
    prompts: int
    dropped: int
    samples: int
    distinct: float
    correlation: float
    reference_oracle: Interval
    ceiling: Interval
    curves: tuple[Curve, ...]
    peak: int
    gain: PairedTest
    lost: PairedTest


async def reference_scores(groups: Sequence[Group], duels: Duels) -> list[tuple[float, ...] | None]:
    """Each sample's P(better than the greedy response): GRAM's reward with a reference (arXiv 2506.14175). None for a
    group with a comparison that failed."""
    wanted = [Duel(one.prompt, text, one.reference) for one in groups for text in one.responses]
    answers = iter(await duels.ask(wanted))
    found = []
    for one in groups:
        mine = [next(answers) for _ in one.responses]
        known = tuple(p for p in mine if p is not None)
        found.append(known if len(known) == len(mine) else None)
    return found


def by_score(scored: Sequence[Scored]) -> Curve:
    """Choosing by the score against the reference: every subset of the samples counted, none drawn."""
    sizes = doublings(len(scored[0].proxy))
    points = []
    for k in sizes:
        proxy = [best_of_k(one.proxy, one.proxy, k) for one in scored]
        oracle = [best_of_k(one.proxy, one.oracle, k) for one in scored]
        points.append(_point(k, proxy, oracle, [one.group.id for one in scored], float(k if k > 1 else 0)))
    return Curve("reference", tuple(points))


async def by_plan(method: Method, scored: Sequence[Scored], duels: Duels, *, draws: int, seed: int) -> Curve:
    """Choosing by one of the service's ranking plans, on the first n of ``draws`` random orders of each group."""
    sizes = doublings(len(scored[0].proxy))
    orders = {(i, d): order(one.group, d, seed) for i, one in enumerate(scored) for d in range(draws)}
    points = []
    for k in sizes:
        contests = [
            Contest(scored[i].group.prompt, tuple(scored[i].group.responses[place] for place in places[:k]))
            for (i, _), places in orders.items()
        ]
        picks = await run_plan(method, contests, duels)
        points.append(_plan_point(k, scored, orders, picks))
    return Curve(method, tuple(points))


def order(group: Group, draw: int, seed: int) -> list[int]:
    """A seeded order of a group's samples; nested subsets of it are what plans of different n are given."""
    places = list(range(len(group.responses)))
    Random(f"{seed}/{draw}/{group.seed}/{group.id}").shuffle(places)
    return places


def _plan_point(
    k: int, scored: Sequence[Scored], orders: Mapping[tuple[int, int], Sequence[int]], picks: Sequence[Pick | None]
) -> Point:
    proxy, oracle, names, spent = [], [], [], []
    for ((i, _), places), pick in zip(orders.items(), picks, strict=True):
        if pick is not None:
            chosen = places[pick.best]
            proxy.append(scored[i].proxy[chosen])
            oracle.append(scored[i].oracle[chosen])
            names.append(scored[i].group.id)
            spent.append(pick.comparisons)
    return _point(k, proxy, oracle, names, float(np.mean(spent)))


def _point(k: int, proxy: Sequence[float], oracle: Sequence[float], names: Sequence[str], comparisons: float) -> Point:
    return Point(k, kl_bound(k), clustered_interval(proxy, names), clustered_interval(oracle, names), comparisons)


def study(scored: Sequence[Scored], curves: Sequence[Curve], reference: Sequence[float], dropped: int) -> Study:
    """The whole result. ``reference`` are the oracle's scores of the greedy responses."""
    names = [one.group.id for one in scored]
    sizes = doublings(len(scored[0].proxy))
    table = {k: [best_of_k(one.proxy, one.oracle, k) for one in scored] for k in sizes}
    peak = max(sizes, key=lambda k: (float(np.mean(table[k])), -k))
    known = [rho for one in scored if not math.isnan(rho := spearman(one.proxy, one.oracle))]
    return Study(
        groups=len(scored),
        prompts=len(set(names)),
        dropped=dropped,
        samples=sizes[-1],
        distinct=float(np.mean([len(set(one.group.responses)) for one in scored])),
        correlation=float(np.mean(known)) if known else math.nan,
        reference_oracle=clustered_interval(reference, names),
        ceiling=clustered_interval([best_of_k(one.oracle, one.oracle, sizes[-1]) for one in scored], names),
        curves=tuple(curves),
        peak=peak,
        gain=paired_test(table[sizes[-1]], table[1], names),
        lost=paired_test(table[sizes[-1]], table[peak], names),
    )
