"""What the study of PPO's tricks says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.studies.comparisons import Question, Table, Values, compare, over_seeds, verdict
from training.studies.pages import COLOURS, Grid, Report, new_figure, shown
from training.studies.ppo_tricks import POINT, TRICKS, Setup, curve_steps

GOLD, BEFORE = "chosen/gold_sampled", "old/gold_sampled"
MEASURES = {
    GOLD: "right, sampled",
    "chosen/gold": "right, greedy",
    "chosen/win_rate": "win rate over the first policy, checker",
    "chosen/proxy": "P(better than the first policy), judge",
    "chosen/kl": "KL, nats a response",
    "last/gold": "right, greedy, last step",
    "chosen_step": "step chosen",
}
FULL, BARE = "RQGW", "none"


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on each trick, with the tables and comparisons behind them."""
    rises = compare([Question("published recipe", table.values(FULL, POINT, GOLD), table.values(FULL, POINT, BEFORE))])
    effects = compare([Question(name, *_with_and_without(setup, table, letter)) for letter, name in TRICKS.items()])
    loses = compare(
        [
            Question(
                "published recipe: at its last step minus at its chosen step",
                table.values(FULL, POINT, "last/gold"),
                table.values(FULL, POINT, "chosen/gold"),
                -1,
            )
        ]
    )
    families = {
        "Right answers, sampled: after PPO minus before": rises,
        "Right answers, sampled: arms with a trick minus the same arms without it": effects,
        "Right answers, greedy: what going on costs": loses,
    }
    verdicts = [
        verdict("PPO with all four tricks raises the share of right answers, which the judge never sees", rises),
        *(
            verdict(f"{name}: arms that have it end with more right answers than the same arms without", [effect])
            for name, effect in zip(TRICKS.values(), effects, strict=True)
        ),
        verdict("the last policy is worse than the one chosen by the judge's validation score", loses),
    ]
    return Report(
        "PPO's tricks, each on and off",
        _question(setup),
        verdicts,
        families,
        _grids(setup, table),
        picture(setup, table),
    )


def _question(setup: Setup) -> str:
    return (
        f"{setup.steps} steps of {setup.batch} responses from one supervised policy a seed, judged by the demo judge "
        f"over POST /score; {setup.test} test questions whose answers are known. Arms are named by what they have: "
        + ", ".join(f"{letter} = {name}" for letter, name in TRICKS.items())
        + ". Marks are of the step whose greedy responses the judge likes best on the validation questions."
    )


def _with_and_without(setup: Setup, table: Table, letter: str) -> tuple[Values, Values]:
    """Each seed's mean over the arms that have a trick, and over those that differ from them in it alone."""
    pairs = [(arm, arm.replace(letter, "") or BARE) for arm in setup.arms if letter in arm]
    pairs = [pair for pair in pairs if pair[1] in setup.arms]
    return _mean(table, [arm for arm, _ in pairs]), _mean(table, [arm for _, arm in pairs])


def _mean(table: Table, arms: Sequence[str]) -> Values:
    columns = [table.values(arm, POINT, GOLD) for arm in arms]
    seeds = set.intersection(*(set(column) for column in columns)) if columns else set()
    return {seed: fmean(column[seed] for column in columns) for seed in sorted(seeds)}


def _grids(setup: Setup, table: Table) -> list[Grid]:
    rows = [[arm, *(shown(table.values(arm, POINT, measure)) for measure in MEASURES)] for arm in setup.arms]
    before = [[shown(table.values(FULL, POINT, measure)) for measure in (BEFORE, "old/gold")]]
    return [
        Grid("The supervised policies, on the same questions", ["right, sampled", "right, greedy"], before),
        Grid("After PPO", ["tricks", *MEASURES.values()], rows),
    ]


def picture(setup: Setup, table: Table) -> Figure:
    """Checker, judge and distance by step for a few arms; judge and checker by distance; every arm's end."""
    figure, ((gold, proxy, distance), (optimism, ends, _)) = new_figure(2, 3)
    _.set_axis_off()
    alone = [arm for arm in (FULL, *(FULL.replace(letter, "") for letter in TRICKS), BARE) if arm in setup.arms]
    for colour, arm in zip(COLOURS, alone, strict=False):
        for axes, measure in ((gold, "gold"), (proxy, "proxy"), (distance, "kl")):
            axes.plot(*_curve(setup, table, arm, measure), "o-", color=colour, markersize=3, label=arm)
        roots = [math.sqrt(max(0.0, kl)) for kl in _curve(setup, table, arm, "kl")[1]]
        optimism.plot(roots, _curve(setup, table, arm, "proxy")[1], "-", color=colour, label=f"{arm}, judge")
        optimism.plot(roots, _curve(setup, table, arm, "win_rate")[1], "--", color=colour, label=f"{arm}, checker")
    _name(gold, "right by the checker, greedy", "step")
    _name(proxy, "judge: P(better than the first policy)", "step")
    _name(distance, "KL from the first policy, nats", "step")
    _name(optimism, "over-optimisation: judge (line), checker (dashes)", "square root of the KL")
    _ends(ends, setup, table)
    gold.legend(fontsize=7)
    return figure


def _ends(axes: Axes, setup: Setup, table: Table) -> None:
    for place, arm in enumerate(setup.arms):
        found = over_seeds(table.values(arm, POINT, GOLD))
        if found is not None:
            half = found.high - found.value if found.clusters > 1 else 0.0
            axes.errorbar([found.value], [place], xerr=[half], fmt="o", color=COLOURS[0], markersize=4, capsize=2)
    before = over_seeds(table.values(FULL, POINT, BEFORE))
    if before is not None:
        axes.axvline(before.value, color="grey", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(setup.arms)), setup.arms, fontsize=7)
    axes.invert_yaxis()
    _name(axes, "right by the checker, sampled (dotted: before)", "")


def _curve(setup: Setup, table: Table, arm: str, measure: str) -> tuple[list[int], list[float]]:
    """Means over seeds at each step that has any."""
    found = [(step, over_seeds(table.values(arm, POINT, f"curve/{step:05d}/{measure}"))) for step in curve_steps(setup)]
    return [step for step, mean in found if mean], [mean.value for _, mean in found if mean]


def _name(axes: Axes, title: str, xlabel: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.25)
