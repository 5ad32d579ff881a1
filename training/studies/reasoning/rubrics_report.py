"""What the study of rubrics says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Table
from training.studies.pages import Report, new_figure
from training.studies.reasoning.reporting import (
    CHECKED,
    Claim,
    Differences,
    Place,
    draw_arms,
    finish_arms,
    grid,
    reported,
)
from training.studies.reasoning.rubrics import CHECKS, FULL_CHAIN, LABELS, POINT, RUBRIC, SOLVE, Setup

NAMES = {
    LABELS: "labels alone",
    CHECKS: "checks",
    RUBRIC: "rubric for all",
    SOLVE: "rubric or solution",
    FULL_CHAIN: "kind, then rubric or solution",
}
KINDS = {"reasoning": "reasoning", "chat": "chat"}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    names: dict[Place, str] = {(arm, POINT): NAMES[arm] for arm in setup.arms}
    ask = Differences(table, names).ask
    labels, checks, rubric, solve, full = ((arm, POINT) for arm in (LABELS, CHECKS, RUBRIC, SOLVE, FULL_CHAIN))
    reasoning, chat = "reasoning/accuracy", "chat/accuracy"
    claims = [
        Claim(
            "solving first makes verdicts on reasoning pairs more accurate",
            "Accuracy on reasoning pairs: with a solution minus without one",
            [*ask(solve, rubric, reasoning), *ask(solve, checks, reasoning)],
        ),
        Claim(
            "a rubric makes verdicts on chat pairs more accurate",
            "Accuracy on chat pairs: with a rubric minus checks alone",
            ask(rubric, checks, chat),
        ),
        Claim("saying the kind of task first helps", "Accuracy, both kinds: kind first minus not", ask(full, solve)),
        Claim(
            "the whole chain beats verdicts without rationales",
            "Accuracy, both kinds: the whole chain minus labels alone",
            ask(full, labels),
        ),
    ]
    columns = {"accuracy": "accuracy, both kinds"}
    columns |= {f"{kind}/accuracy": f"accuracy, {kind}" for kind in KINDS}
    inside = {f"{kind}/{key}": f"{CHECKED[key]}, {kind}" for kind in KINDS for key in ("true", "follows")}
    lengths = {f"{kind}/length": f"tokens, {kind}" for kind in KINDS}
    kinds = {f"{kind}/kind": f"kind named rightly, {kind}" for kind in KINDS}
    return reported(
        "Rubrics, solutions and kinds of task",
        f"Judges taught {setup.core.rationales:,} pairs, half reasoning, half chat, with rationales of different "
        f"parts, in as many steps; {setup.core.test_pairs:,} pairs of each kind in both orders.",
        claims,
        [
            grid("Accuracy", "rationale", table, names, columns),
            grid("Rationales", "rationale", table, names, {**inside, **lengths, **kinds}),
        ],
        picture(table, names),
    )


def picture(table: Table, names: dict[Place, str]) -> Figure:
    """Accuracy on both kinds, and what rationales are like."""
    figure, (panels,) = new_figure(1, 2)
    draw_arms(panels[0], table, names, {f"{kind}/accuracy": kind for kind in KINDS})
    finish_arms(panels[0], "accuracy", "share")
    draw_arms(panels[1], table, names, {f"{kind}/true": kind for kind in KINDS})
    finish_arms(panels[1], "rationales without a false fact", "share", legend=False)
    return figure
