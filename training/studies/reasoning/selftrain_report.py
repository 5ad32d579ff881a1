"""What the self-training study says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Table
from training.studies.pages import Grid, Report, draw_series, finish, new_figure, shown
from training.studies.reasoning.core import DISTILLED
from training.studies.reasoning.reporting import CHECKED, Ask, Claim, Differences, Place, grid, reported
from training.studies.reasoning.selftrain import (
    BOTH,
    LABELLED,
    NONE,
    ONCE,
    ORACLE,
    POINT,
    PROVER,
    SELF,
    THRESHOLD,
    VOTE,
    Setup,
)

NAMES = {
    LABELLED: "labelled only",
    ONCE: "labelled only, anew",
    NONE: "no denoising",
    VOTE: "vote",
    THRESHOLD: "threshold",
    BOTH: "vote + threshold",
    SELF: "own rationales",
    ORACLE: "true labels",
}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    names: dict[Place, str] = {(arm, POINT): NAMES[arm] for arm in setup.arms}
    claims = _claims(Differences(table, names).ask)
    beginnings = {(DISTILLED, "start"): "the first judge", (PROVER, "start"): "the prover, told the right label"}
    rounds = setup.rounds
    return reported(
        "Self-training with a prover",
        f"{setup.core.rationales:,} pairs with labels and rationales; {rounds.rounds} rounds of {rounds.unlabelled:,} "
        f"pairs without; {rounds.votes} votes in each order, kept where the label's mean probability is at least "
        f"{rounds.threshold:g}. Every arm goes on from the same first judge and takes the same number of steps. "
        f"Accuracy is of greedy rationales in both orders, on {setup.core.test_pairs:,} pairs with new prompts.",
        claims,
        [
            grid("At the end", "arm", table, {**beginnings, **names}, CHECKED),
            *(_by_round(setup, table, measure, title) for measure, title in BY_ROUND.items()),
            _by_seed(setup, table),
        ],
        picture(setup, table),
    )


def _claims(ask: Ask) -> list[Claim]:
    both, none = (BOTH, POINT), (NONE, POINT)
    return [
        Claim(
            "rounds of self-training, as published, are more accurate than as many steps on the labels alone",
            "Accuracy: self-training minus labelled only",
            [*ask(both, (LABELLED, POINT)), *ask(both, (ONCE, POINT))],
        ),
        Claim(
            "denoised pseudo-labels are better to learn from than all of them",
            "Accuracy: each way of denoising minus none",
            [*ask(both, none), *ask((VOTE, POINT), none), *ask((THRESHOLD, POINT), none)],
        ),
        Claim(
            "rationales of the prover are better to learn from than the judge's own",
            "Accuracy: the prover's rationales minus the judge's own",
            ask(both, (SELF, POINT)),
        ),
        Claim(
            "true labels would have given more than the judge's",
            "Accuracy: true labels minus pseudo-labels",
            ask((ORACLE, POINT), both),
        ),
        Claim(
            "even true labels with the prover's rationales beat as many steps on the labels alone",
            "Accuracy: true labels minus labelled only",
            ask((ORACLE, POINT), (LABELLED, POINT)),
        ),
    ]


BY_ROUND = {
    "accuracy": "Accuracy after each round",
    "precision": "Pseudo-labels that are right, of those kept",
    "kept": "Pairs kept",
    "synthesised_true": "Rationales learned without a false fact",
}


def _by_round(setup: Setup, table: Table, measure: str, title: str) -> Grid:
    numbers = range(1, setup.rounds.rounds + 1)
    rows = [
        [NAMES[arm], *(shown(table.values(arm, POINT, f"round-{number}/{measure}")) for number in numbers)]
        for arm in setup.arms
        if arm != ONCE and (measure == "accuracy" or arm != LABELLED)
    ]
    return Grid(title, ["arm", *(f"round {number}" for number in numbers)], rows)


def _by_seed(setup: Setup, table: Table) -> Grid:
    """Where the gain comes from: it needs a prover that tells the truth and a first judge with something to learn."""
    columns = {
        "the first judge": table.values(DISTILLED, "start", "accuracy"),
        "the prover: rationales without a false fact": table.values(PROVER, "start", "true"),
        **{NAMES[arm]: table.values(arm, POINT, "accuracy") for arm in (LABELLED, BOTH, ORACLE) if arm in setup.arms},
    }
    seeds = sorted(set().union(*columns.values()))
    rows = [
        [str(seed), *("-" if seed not in values else f"{values[seed]:.3f}" for values in columns.values())]
        for seed in seeds
    ]
    return Grid("Each seed: accuracy, and the prover's rationales", ["seed", *columns], rows)


def picture(setup: Setup, table: Table) -> Figure:
    """By round: accuracy, precision of the labels that are learned, their rationales' truth."""
    figure, (panels,) = new_figure(1, 3)
    for axes, (measure, first) in zip(
        panels, (("accuracy", 0), ("precision", 1), ("synthesised_true", 1)), strict=True
    ):
        rounds = range(first, setup.rounds.rounds + 1)
        arms = [arm for arm in setup.arms if arm != ONCE and (first == 0 or arm != LABELLED)]
        for arm in arms:
            series = [table.values(arm, POINT, f"round-{number}/{measure}") for number in rounds]
            draw_series(
                axes, list(rounds), {NAMES[arm]: series}, place=list(NAMES).index(arm) - (arm not in (LABELLED, ONCE))
            )
        finish(axes, title=BY_ROUND[measure].lower(), xlabel="round", ylabel="")
        axes.set_xticks(list(rounds))
    panels[0].legend(fontsize=8)
    return figure
