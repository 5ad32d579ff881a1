"""What the study of votes says."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.studies.comparisons import Question, Table
from training.studies.pages import Report, draw_series, finish, new_figure
from training.studies.reasoning.reporting import Claim, Differences, Place, constant, grid, reported
from training.studies.reasoning.votes import GREEDY, Setup, arm, point

MEASURES = {
    "accuracy": "accuracy, one order",
    "both/accuracy": "accuracy, both orders pooled",
    "agreement": "agreement of the votes",
    "consistency": "both orders name one response",
    "invalid": "no verdict",
    "tokens": "tokens an order",
    "tokens_saved": "saved by stopping early",
    "same": "same answer when stopped",
}
SAVING = 0.3
"""Share of tokens that stopping early is to save."""
HERE: Place = (GREEDY, "greedy")


def report(setup: Setup, table: Table) -> Report:
    """Verdicts on the claims, with the tables and comparisons behind them."""
    names: dict[Place, str] = {HERE: "greedy"}
    for t in setup.temperatures:
        names |= {(arm(k), point(t)): f"vote@{k}, temperature {t:g}" for k in setup.votes}
    claims = _claims(setup, table, names)
    return reported(
        "Votes",
        f"A judge distilled from {setup.core.rationales:,} human rationales; the majority of sampled rationales "
        f"against the greedy one, on {setup.core.test_pairs:,} pairs in both orders. Voting stops early where the "
        "votes left cannot change the majority; of pairs that votes leave level the mean probability decides.",
        claims,
        [grid("Votes", "judgment", table, names, MEASURES)],
        picture(setup, table),
    )


def _claims(setup: Setup, table: Table, names: dict[Place, str]) -> list[Claim]:
    ask = Differences(table, names).ask
    most = [(arm(max(setup.votes)), point(t)) for t in setup.temperatures]
    single = [(arm(min(setup.votes)), point(t)) for t in setup.temperatures]
    many = f"{max(setup.votes)} votes"
    saved = [table.values(*place, "tokens_saved") for place in most]
    return [
        Claim(
            f"the majority of {many} is more accurate than one sampled rationale",
            f"Accuracy, one order: {many} minus one sample",
            [question for a, b in zip(most, single, strict=True) for question in ask(a, b)],
        ),
        Claim(
            f"the majority of {many} is more accurate than the greedy rationale",
            f"Accuracy, one order: {many} minus greedy",
            [question for place in most for question in ask(place, HERE)],
        ),
        Claim(
            f"with both orders pooled, {many} in each are more accurate than the two greedy rationales",
            f"Accuracy, both orders pooled: {many} minus greedy",
            [question for place in most for question in ask(place, HERE, "both/accuracy")],
        ),
        Claim(
            f"stopping when the majority is decided saves more than {SAVING:.0%} of the tokens of {many}",
            f"Share of tokens saved, minus {SAVING:g}",
            [
                Question(names[place], values, constant(values, SAVING))
                for place, values in zip(most, saved, strict=True)
            ],
        ),
    ]


def picture(setup: Setup, table: Table) -> Figure:
    """Accuracy, pooled accuracy and tokens against the number of votes; greedy as a line."""
    figure, (panels,) = new_figure(1, 3)
    for axes, measure in zip(panels, ("accuracy", "both/accuracy", "tokens_saved"), strict=True):
        series = {
            f"temperature {t:g}": [table.values(arm(k), point(t), measure) for k in setup.votes]
            for t in setup.temperatures
        }
        if measure != "tokens_saved":
            series["greedy"] = [table.values(*HERE, measure)] * len(setup.votes)
        draw_series(axes, setup.votes, series)
        finish(axes, title=MEASURES[measure], xlabel="votes", ylabel="")
        axes.set_xscale("log", base=2)
        axes.set_xticks(setup.votes, [str(k) for k in setup.votes])
        axes.minorticks_off()
    panels[0].legend(fontsize=8)
    return figure
