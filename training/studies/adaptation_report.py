"""What the adaptation study says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.adaptation import DOMAIN, GENERIC, GRAM, PREPARED, SCRATCH, Setup, point
from training.studies.comparisons import Comparison, Question, Table, compare, verdict
from training.studies.pages import Grid, Report, draw_series, finish, new_figure, shown

ARMS = {
    DOMAIN: "GRAM, stage 1 with the new task",
    GRAM: "GRAM",
    GENERIC: "generic (no stage 1)",
    SCRATCH: "scratch",
}
ACCURACY = "new/accuracy"
FIRST = (GRAM, DOMAIN)
SECOND = (SCRATCH, GENERIC)


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    some = [point(n) for n in setup.labels if n]
    span = f"{min(n for n in setup.labels if n):,} to {setup.labels[-1]:,} labels"
    families: dict[str, list[Comparison]] = {}
    verdicts = []
    for arm in FIRST:
        family = compare(
            [
                Question(
                    f"{ARMS[arm]} minus {ARMS[other]}",
                    table.mean_over(arm, some, ACCURACY),
                    table.mean_over(other, some, ACCURACY),
                )
                for other in SECOND
            ]
        )
        families[f"Accuracy on the new task, mean over {span}: {ARMS[arm]}"] = family
        verdicts.append(
            verdict(
                f"{ARMS[arm]}: adapts better than from scratch and than a generic judge, on average over {span}", family
            )
        )
    for arm in FIRST:
        for other in SECOND:
            families[f"Accuracy on the new task: {ARMS[arm]} minus {ARMS[other]}"] = _by_labels(
                setup, table, arm, other
            )
    return Report(
        "Adapting to a new task",
        f"Labels of a task that no label was given for, from four beginnings; {setup.known_labels:,} labels of "
        f"{len(setup.known)} other tasks where there was a stage 2. Accuracy is of both orders averaged, on "
        f"{setup.test_pairs:,} pairs whose prompts were never seen.",
        verdicts,
        families,
        [_grid(setup, table, "new", "The new task"), _grid(setup, table, "known", "The known tasks, after adapting")],
        picture(setup, table),
    )


def _by_labels(setup: Setup, table: Table, arm: str, other: str) -> list[Comparison]:
    return compare(
        [
            Question(f"{n:,} labels", table.values(arm, point(n), ACCURACY), table.values(other, point(n), ACCURACY))
            for n in setup.labels
        ]
    )


def _grid(setup: Setup, table: Table, name: str, title: str) -> Grid:
    rows = [[f"{n:,}", *(shown(table.values(arm, point(n), f"{name}/accuracy")) for arm in ARMS)] for n in setup.labels]
    if name == "known":
        rows.insert(0, ["before", *(shown(table.values(PREPARED, arm, "known/accuracy")) for arm in ARMS)])
    return Grid(title, ["labels of the new task", *(f"accuracy, {arm}" for arm in ARMS.values())], rows)


def picture(setup: Setup, table: Table) -> Figure:
    """Accuracy on the new task and on the known ones, and order inconsistency, against the number of labels."""
    figure, (panels,) = new_figure(1, 3)
    some = min(n for n in setup.labels if n)
    for axes, measure, title in zip(
        panels,
        (ACCURACY, "known/accuracy", "new/inconsistency"),
        ("accuracy, new task", "accuracy, known tasks", "order inconsistency, new task"),
        strict=True,
    ):
        series = {name: [table.values(arm, point(n), measure) for n in setup.labels] for arm, name in ARMS.items()}
        draw_series(axes, setup.labels, series)
        chance = 0.5 if measure.endswith("accuracy") else None
        finish(axes, title=title, xlabel="labels of the new task", ylabel="", chance=chance)
        axes.set_xscale("symlog", base=2, linthresh=some)
        axes.set_xticks(setup.labels, [f"{n:,}" for n in setup.labels], fontsize=8)
        axes.set_xlim(left=-0.3 * some)
        axes.minorticks_off()
    panels[0].legend(fontsize=8)
    return figure
