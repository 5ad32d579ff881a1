"""What the stage-1 study says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Comparison, Factor, Question, Table, Values, compare, label_factor, verdict
from training.studies.pages import Grid, Report, draw_series, finish, new_figure, shown
from training.studies.stage1 import SCRATCH, SHUFFLED, STAGE1, WEIGHTS, Setup, point

ARMS = {STAGE1: "stage 1", SHUFFLED: "stage 1, shuffled prompts", SCRATCH: "scratch"}
ACCURACY = "id/accuracy"


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    points = [point(n) for n in setup.labels]
    overall = {
        arm: compare(
            [
                Question(
                    "mean over all numbers of labels",
                    table.mean_over(STAGE1, points, ACCURACY),
                    table.mean_over(arm, points, ACCURACY),
                )
            ]
        )
        for arm in (SCRATCH, SHUFFLED)
    }
    span = f"{setup.labels[0]:,} to {setup.labels[-1]:,} labels"
    return Report(
        "Stage 1 and accuracy per label",
        f"Stage 2 on {span}, right and without style, from three first weights. Shuffled prompts: as many stage-1 "
        "steps on the same responses, each under the prompt of another. Accuracy is of both orders averaged, on "
        f"{setup.test_pairs:,} pairs whose prompts were never seen.",
        [
            verdict(f"stage 1 raises accuracy over random weights, on average from {span}", overall[SCRATCH]),
            verdict(
                "and does so by what it reads, not by reading: it beats stage 1 on shuffled prompts", overall[SHUFFLED]
            ),
        ],
        {
            "Accuracy: stage 1 minus scratch, overall": overall[SCRATCH],
            "Accuracy: stage 1 minus stage 1 on shuffled prompts, overall": overall[SHUFFLED],
            "Accuracy: stage 1 minus scratch": _by_labels(setup, table, SCRATCH),
            "Accuracy: stage 1 minus stage 1 on shuffled prompts": _by_labels(setup, table, SHUFFLED),
        },
        [_grid(setup, table), _pretraining_grid(table)],
        picture(setup, table),
    )


def _by_labels(setup: Setup, table: Table, against: str) -> list[Comparison]:
    return compare(
        [
            Question(
                f"{n:,} labels", table.values(STAGE1, point(n), ACCURACY), table.values(against, point(n), ACCURACY)
            )
            for n in setup.labels
        ]
    )


def factors(setup: Setup, table: Table) -> dict[int, Factor]:
    """For each number of labels, how many times as many random weights need; only where every seed's curve is whole."""
    curves = {n: table.values(SCRATCH, point(n), ACCURACY) for n in setup.labels}
    whole = set.intersection(*(set(curve) for curve in curves.values()))
    found = {}
    for n in setup.labels:
        reached = table.values(STAGE1, point(n), ACCURACY)
        seeds = sorted(whole & set(reached))
        if seeds:
            reference = [[curves[m][seed] for m in setup.labels] for seed in seeds]
            found[n] = label_factor(setup.labels, n, reference, [reached[seed] for seed in seeds])
    return found


def _grid(setup: Setup, table: Table) -> Grid:
    equivalent = factors(setup, table)
    rows = [
        [
            f"{n:,}",
            *(shown(table.values(arm, point(n), ACCURACY)) for arm in ARMS),
            *(shown(table.values(arm, point(n), "id/inconsistency")) for arm in ARMS),
            equivalent[n].text if n in equivalent else "-",
        ]
        for n in setup.labels
    ]
    headers = [
        "labels",
        *(f"accuracy, {name}" for name in ARMS.values()),
        *(f"order inconsistency, {name}" for name in ARMS.values()),
        "labels that scratch needs, times as many (median of seeds, range)",
    ]
    return Grid("Accuracy by number of labels", headers, rows)


def _pretraining_grid(table: Table) -> Grid:
    rows = [
        [ARMS[arm], *(shown(table.values(unit, "unlabelled", measure)) for measure in ("loss", "digits/accuracy"))]
        for arm, unit in WEIGHTS.items()
    ]
    return Grid("Stage 1", ["weights", "loss, nats a token", "next digit of the right answer (0.1 by guessing)"], rows)


def picture(setup: Setup, table: Table) -> Figure:
    """Accuracy, inconsistency and label-equivalent factor against the number of labels."""
    figure, ((left, middle, right),) = new_figure(1, 3)
    for axes, measure, title in (
        (left, ACCURACY, "accuracy, both orders"),
        (middle, "id/inconsistency", "order inconsistency"),
    ):
        series = {name: [table.values(arm, point(n), measure) for n in setup.labels] for arm, name in ARMS.items()}
        draw_series(axes, setup.labels, series)
        finish(axes, title=title, xlabel="labels", ylabel="", chance=0.5 if measure == ACCURACY else None)
    left.legend(fontsize=8)
    found = factors(setup, table)
    by_seed: list[Values] = [dict(enumerate(factor.by_seed)) for factor in found.values()]
    for n, seeds in zip(found, by_seed, strict=True):
        right.plot([n] * len(seeds), list(seeds.values()), ".", color="grey", alpha=0.6)
    right.plot(
        list(found), [factor.middle for factor in found.values()], "o-", color="#0072b2", label="median of seeds"
    )
    right.axhline(1.0, color="grey", linewidth=1, linestyle=":")
    right.plot(
        setup.labels,
        [setup.labels[-1] / n for n in setup.labels],
        "--",
        color="grey",
        linewidth=1,
        label="most that can be seen",
    )
    right.set(title="labels that scratch needs, times as many", xlabel="labels")
    right.grid(alpha=0.25)
    right.set_yscale("log", base=2)
    right.legend(fontsize=8)
    for axes in (left, middle, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(setup.labels, [f"{n / 1000:g}k" for n in setup.labels])
    return figure
