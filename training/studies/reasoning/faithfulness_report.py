"""What the study of faithfulness says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Table
from training.studies.pages import Report, draw_series, finish, new_figure
from training.studies.reasoning.core import DISTILLED
from training.studies.reasoning.faithfulness import MORE, POINT, RLVR, SELFTRAINED, Setup
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

BEGINNING: Place = (DISTILLED, "start")
NAMES: dict[Place, str] = {
    BEGINNING: "distilled",
    (SELFTRAINED, POINT): "self-trained",
    (RLVR, POINT): "GRPO",
    (MORE, POINT): "more distillation",
}


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    grpo = (RLVR, POINT)
    claims = _claims(Differences(table, NAMES).ask)
    lasts = {f"last/{key}": title for key, title in CHECKED.items()}
    return reported(
        "Rationales one can rely on",
        f"One judge distilled from {setup.core.rationales:,} human rationales, and what became of it: "
        f"{setup.rounds.rounds} rounds of self-training; {setup.reinforcement.steps} steps of GRPO on "
        f"{setup.reinforcement.labels:,} labels; as many updates on true rationales of those pairs. Every fact of "
        f"every greedy rationale is checked, on {setup.core.test_pairs:,} pairs in both orders.",
        claims,
        [
            grid("Rationales", "judge", table, NAMES, CHECKED),
            grid("GRPO at its last step", "judge", table, {grpo: NAMES[grpo]}, lasts),
        ],
        picture(setup, table),
    )


def _claims(ask: Ask) -> list[Claim]:
    grpo, selftrained = (RLVR, POINT), (SELFTRAINED, POINT)
    last = "last/accuracy"
    return [
        Claim(
            "rewards for the verdict raise accuracy, to the last step",
            "Accuracy: the last step of GRPO minus distilled",
            ask(grpo, BEGINNING, last, of_second="accuracy"),
        ),
        Claim(
            "while they do, rationales get worse: fewer true facts, fewer rationales without a false one",
            "Facts: the last step of GRPO minus distilled",
            [
                *ask(grpo, BEGINNING, "last/tokens", expected=-1, of_second="tokens"),
                *ask(grpo, BEGINNING, "last/true", expected=-1, of_second="true"),
            ],
        ),
        Claim(
            "rewards make verdicts follow from the facts stated",
            "Verdict follows: the last step of GRPO minus distilled",
            ask(grpo, BEGINNING, "last/follows", of_second="follows"),
        ),
        Claim(
            "choosing the checkpoint by accuracy keeps more true facts than the last step has",
            "True facts: the checkpoint chosen minus the last step",
            ask(grpo, grpo, "tokens", of_second="last/tokens"),
        ),
        Claim(
            "self-training makes rationales truer",
            "Rationales without a false fact: self-trained minus distilled",
            ask(selftrained, BEGINNING, "true"),
        ),
        Claim(
            "at as many updates, rationales taught are truer than rationales rewarded",
            "Rationales without a false fact: more distillation minus GRPO",
            ask((MORE, POINT), grpo, "true"),
        ),
    ]


def picture(setup: Setup, table: Table) -> Figure:
    """The judges; then accuracy and rationales while GRPO goes on."""
    figure, (panels,) = new_figure(1, 2)
    shown = {key: CHECKED[key] for key in ("accuracy", "true", "follows", "unfounded")}
    draw_arms(panels[0], table, NAMES, shown)
    finish_arms(panels[0], "judges", "share")
    looks = [0, *setup.reinforcement.looks]
    series = {
        CHECKED[key]: [table.values(RLVR, POINT, f"step-{step}/{key}") for step in looks]
        for key in ("accuracy", "tokens", "true", "follows")
    }
    draw_series(panels[1], looks, series)
    finish(panels[1], title="GRPO", xlabel="step", ylabel="")
    panels[1].legend(fontsize=8)
    return figure
