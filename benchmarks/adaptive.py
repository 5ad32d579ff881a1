"""Best-of-16 by few comparisons: every ranking plan replayed on the judge's win matrices, with and without noise."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.progress import Progress

from benchmarks.adaptive_plot import draw_plot
from benchmarks.figures import DOCS, Bar, Report
from benchmarks.graded import GRADES, PER_GRADE, draw_graded
from benchmarks.matrices import Judged, cache_file, judge_all, shuffled, with_noise
from service.ranking.belief import believe
from service.ranking.board import RankTask
from service.ranking.plans import PLANS, Method
from service.types import Ranking
from training.evaluation.statistics import wilson_interval

SUMMARY = "Best of 16 responses of graded quality: each plan's best against all-pairs' best, on the same win matrices."
PLOT = DOCS.with_name("adaptive.png")
RESPONSES = len(GRADES) * PER_GRADE
EVERY = RESPONSES * (RESPONSES - 1) // 2
SHARE = 0.30
"""Of all comparisons: what the adaptive plan may use."""
BUDGETS = (15, 18, 24, int(SHARE * EVERY))
NOISES = (0.0, 1.0)
"""Standard deviation, nats, added to the log-odds of every pair."""
ORDERS = 4
"""Each matrix is replayed in so many orders of its responses, for who meets whom depends on it."""
SEED = 4242
"""Plans were developed on the prompts of seeds 101 and 102; those of this one were judged once, for the report."""
SPARE = 1.5
"""Prompts drawn for each one wanted, for the judge may be unable to answer some."""
RIVALS: tuple[Method, ...] = ("knockout", "linear")


@dataclass(frozen=True, slots=True)
class Case:
    """A matrix and its yardstick: all-pairs' strengths, and the standard error of its best by the judge's own noise."""

    judged: Judged
    strengths: list[float]
    best: int
    stderr: float

    @classmethod
    def of(cls, judged: Judged) -> Case:
        belief = believe(judged.wins)
        best = max(range(RESPONSES), key=lambda i: belief.strengths[i])
        return cls(judged, belief.strengths, best, belief.standard_errors()[best])


@dataclass(frozen=True, slots=True)
class Result:
    """One plan over all cases. ``hits``: the very best of all pairs; ``near``: within one standard error of it;
    ``right``: of the best grade there is; ``decided``: stopped by itself; ``hits_by_prompt`` sums over the orders."""

    plan: str
    noise: float
    budget: int | None
    cases: int
    hits: int
    near: int
    right: int
    decided: int
    mean_comparisons: float
    most_comparisons: int
    hits_by_prompt: list[int]

    @property
    def share(self) -> float:
        """Of all comparisons, on average."""
        return self.mean_comparisons / EVERY


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prompts", type=int, default=300, help="prompts of 16 responses (default 300)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the responses and of the noise (default {SEED})")
    parser.add_argument("--plot", type=Path, help=f"where to draw hit rates (with --write-docs: {PLOT.name})")


def run(arguments: Namespace) -> Report:
    prompts = draw_graded(int(SPARE * arguments.prompts), arguments.seed)
    cache = cache_file(arguments.model, arguments.seed)
    with Progress() as progress:
        step = progress.add_task("matrices", total=arguments.prompts)
        judged = judge_all(prompts, arguments.prompts, cache, arguments, lambda done: progress.advance(step, done))
        results = _replay_all(judged, arguments.seed, progress)
    plot = arguments.plot or (PLOT if arguments.write_docs else None)
    if plot:
        points = [(r.plan, r.noise, r.share, round(r.hits / ORDERS), r.cases // ORDERS) for r in results]
        draw_plot(points, SHARE, plot)
    return _report(results, arguments)


def _replay_all(judged: Sequence[Judged], seed: int, progress: Progress) -> list[Result]:
    plans: list[tuple[Method, int | None]] = [("pivot", None), ("knockout", None), ("linear", None), ("swiss", None)]
    plans += [("adaptive", budget) for budget in (*BUDGETS, None)]
    step = progress.add_task("replays", total=len(NOISES) * len(plans))
    results = []
    for noise in NOISES:
        noisy = [with_noise(one, noise, seed) for one in judged]
        cases = [Case.of(shuffled(one, f"{order}/{seed}")) for order in range(ORDERS) for one in noisy]
        for plan, budget in plans:
            results.append(_result(plan, noise, budget, cases))
            progress.advance(step)
    return results


def _result(plan: Method, noise: float, budget: int | None, cases: Sequence[Case]) -> Result:
    task = RankTask(RESPONSES, "best", max_comparisons=budget)
    rankings = [replay(plan, task, case.judged) for case in cases]
    chosen = [(case, ranking.order[0]) for case, ranking in zip(cases, rankings, strict=True)]
    asked = [ranking.comparisons for ranking in rankings]
    hits = [best == case.best for case, best in chosen]
    return Result(
        plan,
        noise,
        budget,
        len(cases),
        sum(hits),
        sum(case.strengths[case.best] - case.strengths[best] <= case.stderr for case, best in chosen),
        sum(case.judged.prompt.grades[best] == 0 for case, best in chosen),
        sum(ranking.stopped == "decided" for ranking in rankings),
        fmean(asked),
        max(asked),
        [sum(hits[prompt :: len(hits) // ORDERS]) for prompt in range(len(hits) // ORDERS)],
    )


def replay(method: Method, task: RankTask, judged: Judged) -> Ranking:
    """A plan driven by a matrix instead of an engine."""
    plan = PLANS[method](task)
    try:
        pairs = next(plan)
        while True:
            told = [p for i, j in pairs if (p := judged.wins[i][j]) is not None]
            pairs = plan.send(told)
    except StopIteration as done:
        ranking: Ranking = done.value
        return ranking


def ahead_of(mine: Result, other: Result) -> tuple[float, float]:
    """How much more often ``mine`` hits, and half of the 95 % interval: the same cases, paired by prompt.

    The orders of a prompt are not independent of each other; their mean is one observation.
    """
    pairs = zip(mine.hits_by_prompt, other.hits_by_prompt, strict=True)
    differences = [(a - b) / ORDERS for a, b in pairs]
    return fmean(differences), 1.96 * stdev(differences) / math.sqrt(len(differences))


def _report(results: Sequence[Result], arguments: Namespace) -> Report:
    bars: list[Bar] = []
    leads: list[str] = []
    for noise in NOISES:
        mine = {(r.plan, r.budget): r for r in results if r.noise == noise}
        capped = mine["adaptive", BUDGETS[-1]]
        label = f"noise sd {noise:g}"
        bars += [
            Bar(f"{label}: adaptive's best within one standard error", capped.near / capped.cases, ">=", 0.97),
            Bar(f"{label}: most comparisons of adaptive, of all", capped.most_comparisons / EVERY, "<=", SHARE),
        ]
        for rival in RIVALS:
            other = mine[rival, None]
            equal = mine["adaptive", other.most_comparisons]
            what = f"{label}: hits ahead of {rival} at {other.most_comparisons} comparisons, of {other.cases}"
            bars.append(Bar(what, equal.hits - other.hits, ">=", 1))
            lead, half = ahead_of(equal, other)
            leads.append(f"{label}, {rival}: {lead:+.3f} ({lead - half:+.3f} to {lead + half:+.3f})")
    prompts = results[0].cases // ORDERS
    rows = [{name: value for name, value in asdict(r).items() if name != "hits_by_prompt"} for r in results]
    raw = {"prompts": prompts, "orders": ORDERS, "seed": arguments.seed, "results": rows}
    notes = [
        f"{prompts} prompts of {EVERY} pairs, judged once by POST /rank, replayed in {ORDERS} orders of the responses; "
        "every plan meets the same orders and the same noise.",
        "Hit: the very response that all pairs put first. Within: at most one standard error behind it in all pairs' "
        "fit; the error is from the judge's own noise, smaller than the coin-flip one. Right: of the best grade.",
        "Intervals are 95 % (Wilson), as of so many prompts. Equal budget: adaptive with max_comparisons set to what "
        "the other plan used.",
        "Hit rate of adaptive less that of the other at its budget (95 %, paired by prompt): " + "; ".join(leads) + ".",
    ]
    headers = ["noise sd", "plan", "budget", "comparisons", "share", "hit", "interval", "within", "interval", "right"]
    return Report("adaptive", SUMMARY, headers, [_row(r) for r in results], bars, raw, notes)


def _row(result: Result) -> list[str]:
    def rate(count: int) -> tuple[str, str]:
        low, high = wilson_interval(round(count / ORDERS), result.cases // ORDERS)
        return f"{count / result.cases:.3f}", f"{low:.3f} - {high:.3f}"

    return [
        f"{result.noise:g}",
        result.plan,
        "none" if result.budget is None else str(result.budget),
        f"{result.mean_comparisons:.1f}",
        f"{result.share:.2f}",
        *rate(result.hits),
        *rate(result.near),
        rate(result.right)[0],
    ]
