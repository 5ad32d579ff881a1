"""What the study of verifiable rewards says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Table
from training.studies.pages import Report, draw_series, finish, new_figure
from training.studies.reasoning.core import DISTILLED
from training.studies.reasoning.reporting import (
    CHECKED,
    Ask,
    Claim,
    Differences,
    Place,
    draw_arms,
    finish_arms,
    grid,
    reported,
)
from training.studies.reasoning.rlvr import COLD, LABELS, LONGER, MORE, POINT, RLVR, Setup

NAMES = {
    RLVR: "distil, then GRPO",
    COLD: "cold GRPO",
    LABELS: "labels alone",
    LONGER: "distil for longer",
    MORE: "distil on the labels' pairs",
}
BEGINNING: Place = (DISTILLED, "start")


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    names: dict[Place, str] = {BEGINNING: "distil", **{(arm, POINT): NAMES[arm] for arm in setup.arms}}
    ask = Differences(table, names).ask
    rlvr = (RLVR, POINT)
    plan = setup.reinforcement
    return reported(
        "Verifiable rewards after distillation",
        f"A judge distilled from {setup.core.rationales:,} human rationales, then {plan.labels:,} labels: "
        f"{plan.steps} steps of GRPO, {plan.prompts} prompts x {plan.group} rationales each, against as many updates "
        "of as many texts without rewards. The checkpoint is chosen by validation pairs.",
        _claims(ask, rlvr),
        [
            grid("After training", "arm", table, names, CHECKED),
            grid(
                "GRPO: what validation chose, and the last step",
                "arm",
                table,
                {place: name for place, name in names.items() if place in (rlvr, (COLD, POINT))},
                {
                    "best_step": "step chosen",
                    **{key: f"{CHECKED[key]}, chosen" for key in ("accuracy", "tokens")},
                    **{f"last/{key}": f"{CHECKED[key]}, last" for key in ("accuracy", "tokens")},
                },
            ),
        ],
        picture(setup, table, names),
    )


def _claims(ask: Ask, rlvr: Place) -> list[Claim]:
    cold = (COLD, POINT)
    return [
        Claim(
            "verifiable rewards make a distilled judge more accurate",
            "Accuracy: with GRPO minus before it",
            ask(rlvr, BEGINNING),
        ),
        Claim(
            "rewards bring more than as many updates of the same distillation",
            "Accuracy: GRPO minus longer distillation",
            ask(rlvr, (LONGER, POINT)),
        ),
        Claim(
            "rewards bring more than true rationales of the same pairs, in as many updates",
            "Accuracy: GRPO minus distillation on the same pairs",
            ask(rlvr, (MORE, POINT)),
        ),
        Claim(
            "a judge that reasons beats one that learned every label without rationales",
            "Accuracy: GRPO minus labels alone",
            ask(rlvr, (LABELS, POINT)),
        ),
        Claim(
            "without distillation rewards teach something too",
            "Accuracy: cold GRPO minus its beginning",
            ask(cold, cold, "accuracy", of_second="before/accuracy"),
        ),
        Claim(
            "rewards for the verdict alone make rationales worse: fewer true facts at the last step than before",
            "True facts: the last step of GRPO minus before it",
            ask(rlvr, BEGINNING, "last/tokens", expected=-1, of_second="tokens"),
        ),
    ]


def picture(setup: Setup, table: Table, names: dict[Place, str]) -> Figure:
    """Arms; then accuracy and true facts while GRPO goes on."""
    figure, (panels,) = new_figure(1, 3)
    draw_arms(panels[0], table, names, {key: CHECKED[key] for key in ("accuracy", "tokens")})
    finish_arms(panels[0], "after training", "share")
    looks = [0, *setup.reinforcement.looks]
    for axes, (arm, title) in zip(panels[1:], ((RLVR, "GRPO after distillation"), (COLD, "cold GRPO")), strict=True):
        series = {
            CHECKED[key]: [table.values(arm, POINT, f"step-{step}/{key}") for step in looks]
            for key in ("accuracy", "tokens", "follows")
        }
        draw_series(axes, looks, series)
        finish(axes, title=title, xlabel="step", ylabel="", chance=0.5)
    panels[1].legend(fontsize=8)
    return figure
