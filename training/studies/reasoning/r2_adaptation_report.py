"""What the study of adapting a reasoning judge says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Question, Table
from training.studies.pages import Grid, Report, draw_series, finish, new_figure, shown
from training.studies.reasoning.r2_adaptation import (
    ARMS,
    GRAM,
    PREPARED,
    R2,
    R2_LABELS,
    R2_SCRATCH,
    SCRATCH,
    Setup,
    point,
)
from training.studies.reasoning.reporting import Claim, mean_question, reported

NAMES = {
    SCRATCH: "labels, from scratch",
    GRAM: "labels, GRAM",
    R2_SCRATCH: "rationales, from scratch",
    R2: "rationales, reasoning judge",
    R2_LABELS: "labels, reasoning judge",
}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    given = [n for n in setup.pairs if n]
    claims = _claims(setup, table)
    rows = [[f"{n:,}", *(shown(table.values(arm, point(n), "accuracy")) for arm in ARMS)] for n in setup.pairs]
    facts = [
        [f"{n:,}", *(shown(table.values(arm, point(n), "true")) for arm in (R2_SCRATCH, R2, R2_LABELS))]
        for n in setup.pairs
    ]
    used = [[f"{n:,}", shown(table.values(R2_LABELS, point(n), "used"))] for n in given]
    before = [[NAMES[arm], shown(table.values(PREPARED, arm, "known/accuracy"))] for arm in (GRAM, R2)]
    head = "pairs of the new task"
    return reported(
        "Adapting a judge that reasons",
        f"Pairs of a task that no judge has seen. GRAM had {setup.known_labels:,} labels of {len(setup.core.tasks)} "
        f"other tasks, the reasoning judge {setup.core.rationales:,} with rationales. Accuracy is of single orders.",
        claims,
        [
            Grid("The new task", [head, *(f"accuracy, {NAMES[arm]}" for arm in ARMS)], rows),
            Grid(
                "Rationales of the new task without a false fact",
                [head, *(NAMES[arm] for arm in (R2_SCRATCH, R2, R2_LABELS))],
                facts,
            ),
            Grid("Own rationales that end in the label, learned where only labels are given", [head, "share"], used),
            Grid("The known tasks, before adapting", ["judge", "accuracy"], before),
        ],
        picture(setup, table),
    )


def _claims(setup: Setup, table: Table) -> list[Claim]:
    given = [n for n in setup.pairs if n]
    some = [point(n) for n in given]
    span = f"{given[0]:,} to {given[-1]:,} pairs"

    return [
        Claim(
            f"with human rationales of the new task a reasoning judge adapts better than label-only ones, over {span}",
            "Accuracy on the new task, mean over the numbers of pairs: the reasoning judge with rationales",
            [mean_question(table, NAMES, some, R2, other) for other in (GRAM, SCRATCH)],
        ),
        Claim(
            f"with labels alone a reasoning judge adapts better than label-only ones, over {span}",
            "Accuracy on the new task, mean over the numbers of pairs: the reasoning judge with labels",
            [mean_question(table, NAMES, some, R2_LABELS, other) for other in (GRAM, SCRATCH)],
        ),
        Claim(
            f"reasoning about other tasks is what helps, not the rationales of this one alone, over {span}",
            "Accuracy on the new task, mean over the numbers of pairs: reasoning judge minus rationales from scratch",
            [mean_question(table, NAMES, some, R2, R2_SCRATCH)],
        ),
        *(
            Claim(
                f"at every number of pairs: {NAMES[R2]} beats {NAMES[other]}",
                f"Accuracy on the new task: {NAMES[R2]} minus {NAMES[other]}",
                [
                    Question(
                        f"{n:,} pairs",
                        table.values(R2, point(n), "accuracy"),
                        table.values(other, point(n), "accuracy"),
                    )
                    for n in setup.pairs
                ],
            )
            for other in (GRAM, SCRATCH)
        ),
    ]


def picture(setup: Setup, table: Table) -> Figure:
    """Accuracy on the new task, and rationales without a false fact, against the number of pairs."""
    figure, (panels,) = new_figure(1, 2)
    some = min(n for n in setup.pairs if n)
    drawn = ((panels[0], "accuracy", ARMS), (panels[1], "true", (R2_SCRATCH, R2, R2_LABELS)))
    for axes, measure, arms in drawn:
        for arm in arms:
            series = {NAMES[arm]: [table.values(arm, point(n), measure) for n in setup.pairs]}
            draw_series(axes, setup.pairs, series, place=ARMS.index(arm))
        axes.set_xscale("symlog", base=2, linthresh=some)
        axes.set_xticks(setup.pairs, [f"{n:,}" for n in setup.pairs], fontsize=8)
        axes.set_xlim(left=-0.3 * some)
        axes.minorticks_off()
    finish(panels[0], title="accuracy, new task", xlabel="pairs of the new task", ylabel="", chance=0.5)
    finish(panels[1], title="rationales without a false fact", xlabel="pairs of the new task", ylabel="")
    panels[0].legend(fontsize=8)
    return figure
