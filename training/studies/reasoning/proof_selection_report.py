"""What the study of proof selection says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Table
from training.studies.pages import Report, new_figure
from training.studies.reasoning.proof_selection import (
    FIRST,
    LIKELIHOOD,
    ORACLE,
    POINT,
    RANDOM,
    RATIO,
    Setup,
)
from training.studies.reasoning.reporting import Ask, Claim, Differences, Place, draw_arms, finish_arms, grid, reported

NAMES = {
    FIRST: "first (k = 1)",
    RANDOM: "random",
    LIKELIHOOD: "likelihood",
    RATIO: "ratio (published)",
    ORACLE: "best there is",
}
PROOFS = {"proofs/tokens": "true facts of proofs", "proofs/true": "proofs without a false fact"}
JUDGED = {"accuracy": "accuracy of the judge taught them", "tokens": "its true facts"}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    names: dict[Place, str] = {(policy, POINT): NAMES[policy] for policy in setup.policies}
    claims = _claims(Differences(table, names).ask)
    return reported(
        "Selecting proofs",
        f"A prover from {setup.core.rationales:,} human rationales writes {setup.candidates} candidates for each of "
        f"{setup.labelled:,} labelled pairs; a fresh judge learns the one that is kept.",
        claims,
        [grid("Proofs kept, and the judge taught them", "policy", table, names, {**PROOFS, **JUDGED})],
        picture(table, names),
    )


def _claims(ask: Ask) -> list[Claim]:
    ratio, first, likelihood = (RATIO, POINT), (FIRST, POINT), (LIKELIHOOD, POINT)
    true, downstream = "proofs/true", "accuracy"
    return [
        Claim(
            "the published score picks proofs with fewer false facts than one sample has",
            "Proofs without a false fact: ratio minus unselected ones",
            [*ask(ratio, first, true), *ask(ratio, (RANDOM, POINT), true)],
        ),
        Claim(
            "the published score picks better proofs than their likelihood alone",
            "Proofs without a false fact: ratio minus likelihood",
            ask(ratio, likelihood, true),
        ),
        Claim(
            "a judge taught the selected proofs is more accurate",
            "Accuracy of the judge: ratio minus the first candidate",
            ask(ratio, first, downstream),
        ),
        Claim(
            "a judge taught proofs selected by the ratio is more accurate than by likelihood",
            "Accuracy of the judge: ratio minus likelihood",
            ask(ratio, likelihood, downstream),
        ),
        Claim(
            "there is something to select: the best candidate makes a better judge than the first",
            "Accuracy of the judge: the best there is minus the first candidate",
            ask((ORACLE, POINT), first, downstream),
        ),
    ]


def picture(table: Table, names: dict[Place, str]) -> Figure:
    """Left the proofs, right the judge."""
    figure, (panels,) = new_figure(1, 2)
    for axes, measures, title in zip(panels, (PROOFS, JUDGED), ("the proofs kept", "the judge"), strict=True):
        draw_arms(axes, table, names, measures)
        finish_arms(axes, title, "share")
    return figure
