"""What the smoothing study says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Comparison, Question, Table, compare, verdict
from training.studies.pages import Grid, Report, draw_series, finish, new_figure, shown
from training.studies.smoothing import Setup, gram, point

RECOMMENDED = 0.05
"""alpha of the published recipe: PyTorch's epsilon 0.1 spreads over two labels."""
MEASURES = {
    "id/accuracy": "accuracy, same style as in training",
    "hard/accuracy": "accuracy, hard (style reversed)",
    "held_out/accuracy": "accuracy, task without labels",
    "longer/accuracy": "accuracy, one digit more",
    "id/ece": "calibration error (ECE)",
    "hard/inconsistency": "order inconsistency, hard",
}
PANELS = ("id/accuracy", "hard/accuracy", "held_out/accuracy", "id/ece")
FULL_NAMES = {
    "bt": "BT",
    "bt-margin": "BT + margin",
    "bt-smoothed": "BT + smooth",
    "bt-frozen": "BT, frozen",
    "bt-text": "BT + text (GRM)",
}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    alpha = RECOMMENDED
    helps = _smoothed_against_plain(setup, table, "hard/accuracy", 1)
    calibrates = _smoothed_against_plain(setup, table, "id/ece", -1)
    families = {
        f"Hard accuracy: alpha = {alpha:g} minus alpha = 0": helps,
        f"Calibration error (ECE, lower is better): alpha = {alpha:g} minus alpha = 0": calibrates,
        "Hard accuracy: every other alpha minus alpha = 0": _other_alphas(setup, table),
    }
    verdicts = [
        verdict(
            f"smoothing (alpha = {alpha:g}) raises accuracy where style misleads, at every share of wrong labels", helps
        ),
        verdict(
            f"smoothing (alpha = {alpha:g}) lowers the calibration error, at every share of wrong labels", calibrates
        ),
    ]
    for measure, where in (("hard/accuracy", "where style misleads"), ("id/accuracy", "in distribution")):
        family = _against_baselines(setup, table, measure)
        families[f"Accuracy {where}: GRAM (alpha = {alpha:g}) minus each baseline"] = family
        verdicts.append(
            verdict(f"GRAM (alpha = {alpha:g}) is more accurate than every discriminative baseline {where}", family)
        )
    return Report(
        "Label smoothing under wrong labels and misleading style",
        f"{setup.labels:,} labels of {len(setup.tasks)} digit tasks; the better response is the styled one in "
        f"{setup.style:.0%} of training pairs and {1 - setup.style:.0%} of the hard ones. Every arm begins from the "
        "same random weights (the frozen one: from stage 1) and sees the same labels. Accuracy is of both orders "
        "averaged.",
        verdicts,
        families,
        [_grid(setup, table, flips) for flips in setup.flips],
        picture(setup, table),
    )


def _smoothed_against_plain(setup: Setup, table: Table, measure: str, expected: int) -> list[Comparison]:
    return compare(
        [
            Question(
                f"{flips:.0%} wrong labels",
                table.values(gram(RECOMMENDED), point(flips), measure),
                table.values(gram(0.0), point(flips), measure),
                expected,
            )
            for flips in setup.flips
        ]
    )


def _other_alphas(setup: Setup, table: Table) -> list[Comparison]:
    return compare(
        [
            Question(
                f"alpha = {alpha:g}, {flips:.0%} wrong labels",
                table.values(gram(alpha), point(flips), "hard/accuracy"),
                table.values(gram(0.0), point(flips), "hard/accuracy"),
            )
            for alpha in setup.alphas
            if alpha not in (0.0, RECOMMENDED)
            for flips in setup.flips
        ]
    )


def _against_baselines(setup: Setup, table: Table, measure: str) -> list[Comparison]:
    return compare(
        [
            Question(
                f"{FULL_NAMES[arm]}, {flips:.0%} wrong labels",
                table.values(gram(RECOMMENDED), point(flips), measure),
                table.values(arm, point(flips), measure),
            )
            for arm in setup.baselines
            for flips in setup.flips
        ]
    )


def _names(setup: Setup) -> dict[str, str]:
    return {gram(alpha): f"GRAM, alpha = {alpha:g}" for alpha in setup.alphas} | {
        arm: FULL_NAMES[arm] for arm in setup.baselines
    }


def _grid(setup: Setup, table: Table, flips: float) -> Grid:
    rows = [
        [name, *(shown(table.values(arm, point(flips), measure)) for measure in MEASURES)]
        for arm, name in _names(setup).items()
    ]
    return Grid(f"{flips:.0%} wrong labels", ["arm", *MEASURES.values()], rows)


def picture(setup: Setup, table: Table) -> Figure:
    """Above: GRAM against alpha. Below: the baselines beside GRAM with and without smoothing."""
    figure, panels = new_figure(2, len(PANELS))
    beside = [gram(0.0), gram(RECOMMENDED), *setup.baselines]
    names = [
        "GRAM\nα = 0",
        f"GRAM\nα = {RECOMMENDED:g}",
        *(FULL_NAMES[arm].replace(" + ", "\n+ ") for arm in setup.baselines),
    ]
    for column, measure in enumerate(PANELS):
        chance = 0.5 if measure.endswith("accuracy") else None
        above, below = panels[0][column], panels[1][column]
        for place, flips in enumerate(setup.flips):
            label, at = f"{flips:.0%} wrong labels", point(flips)
            shift = place - (len(setup.flips) - 1) / 2
            curve = [table.values(gram(alpha), at, measure) for alpha in setup.alphas]
            draw_series(above, [alpha + 0.0008 * shift for alpha in setup.alphas], {label: curve}, place=place)
            row = [table.values(arm, at, measure) for arm in beside]
            draw_series(below, [x + 0.2 * shift for x in range(len(beside))], {label: row}, place=place, line=False)
        finish(above, title=MEASURES[measure], xlabel="smoothing α (mass on the other label)", ylabel="", chance=chance)
        finish(below, title=MEASURES[measure], xlabel="", ylabel="", chance=chance)
        below.set_xticks(range(len(beside)), names, fontsize=6.5)
    panels[0][0].legend(fontsize=8)
    return figure
