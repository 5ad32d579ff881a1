"""What the study of rationale budgets says."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.figure import Figure

from training.studies.comparisons import Question, Table
from training.studies.pages import Grid, Report, draw_series, finish, new_figure, shown
from training.studies.reasoning.budget import ANY, ARMS, CUT, SHORT, Setup, point
from training.studies.reasoning.reporting import Claim, mean_question, reported

NAMES = {CUT: "cut", SHORT: "taught this length", ANY: "taught every length, cut"}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    budgets = setup.budgets
    claims = _claims(setup, table)
    rows = [[str(tokens), *(shown(table.values(arm, point(tokens), "accuracy")) for arm in ARMS)] for tokens in budgets]
    return reported(
        "Accuracy against the rationale's budget",
        f"Judges distilled from {setup.core.rationales:,} human rationales, which may write so many tokens and then "
        f"must name A or B. A whole rationale has {budgets[-1]}, three for each position. All take as many steps.",
        claims,
        [Grid("Accuracy", ["tokens before the verdict", *NAMES.values()], rows)],
        picture(setup, table),
    )


def _claims(setup: Setup, table: Table) -> list[Claim]:
    budgets = setup.budgets
    partial = [point(tokens) for tokens in budgets[1:-1]]
    whole, none = point(budgets[-1]), point(0)

    def by_steps(arm: str) -> list[Question]:
        return [
            Question(
                f"{NAMES[arm]}, {more} minus {fewer} tokens",
                table.values(arm, point(more), "accuracy"),
                table.values(arm, point(fewer), "accuracy"),
            )
            for fewer, more in pairwise(budgets)
        ]

    return [
        Claim(
            "a whole rationale is worth more than a verdict learned without one",
            "Accuracy: taught whole rationales minus taught none",
            [Question(NAMES[SHORT], table.values(SHORT, whole, "accuracy"), table.values(SHORT, none, "accuracy"))],
        ),
        *(
            Claim(
                f"every step of budget adds accuracy ({NAMES[arm]})",
                f"Accuracy: each budget minus the one before ({NAMES[arm]})",
                by_steps(arm),
            )
            for arm in ARMS
        ),
        Claim(
            "at part of the budget, judges taught for it are better than one taught whole rationales and cut",
            "Accuracy, mean over the budgets between none and all: taught for it minus cut",
            [mean_question(table, NAMES, partial, arm, CUT) for arm in (SHORT, ANY)],
        ),
    ]


def picture(setup: Setup, table: Table) -> Figure:
    """Accuracy against the budget."""
    figure, ((axes,),) = new_figure(1, 1)
    budgets = setup.budgets
    series = {name: [table.values(arm, point(b), "accuracy") for b in budgets] for arm, name in NAMES.items()}
    draw_series(axes, budgets, series)
    finish(axes, title="accuracy", xlabel="tokens of rationale before the verdict", ylabel="", chance=0.5)
    axes.set_xticks(budgets)
    axes.legend(fontsize=8)
    return figure
