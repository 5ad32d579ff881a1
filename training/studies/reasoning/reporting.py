"""Pages of the reasoning studies from a few declarations: claims as differences of arms, tables of arms, two plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.studies.comparisons import Question, Table, Values, compare, over_seeds, verdict
from training.studies.pages import COLOURS, Grid, Report, shown

Place = tuple[str, str]
"""Arm and point."""

Ask = Callable[..., list[Question]]
"""`Differences.ask`."""

CHECKED = {
    "accuracy": "accuracy",
    "invalid": "no verdict",
    "tokens": "true facts",
    "true": "rationales without a false fact",
    "follows": "verdict follows",
    "unfounded": "right behind a false fact",
}
"""What `training.studies.reasoning.rationales.check` measures, as pages call it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence and the family of comparisons that decides it."""

    sentence: str
    measured: str
    """What the comparisons are of: the family's heading."""
    questions: Sequence[Question]


class Differences:
    """Questions about arms that were run; those about arms a size leaves out are not asked."""

    def __init__(self, table: Table, names: Mapping[Place, str]) -> None:
        self._table, self._names = table, names

    def ask(
        self, first: Place, second: Place, measure: str = "accuracy", expected: int = 1, of_second: str = ""
    ) -> list[Question]:
        """First minus second; ``of_second``: the other one's measure where it is another."""
        if first not in self._names or second not in self._names:
            return []
        what = f"{self._names[first]} minus {self._names[second]}"
        if first == second:
            what = f"{self._names[first]}: {_readable(measure)} minus {_readable(of_second)}"
        elif not measure.endswith("accuracy"):
            what = f"{_readable(measure)}: {what}"
        values = self._table.values(*first, measure)
        return [Question(what, values, self._table.values(*second, of_second or measure), expected)]


def _readable(measure: str) -> str:
    """``last/true``: rationales without a false fact at the last step; ``chat/true``: .. of chat pairs."""
    place, _, key = measure.rpartition("/")
    where = {"": "", "before": " before it", "last": " at the last step"}.get(place, f" of {place} pairs")
    return CHECKED.get(key, key) + where


def mean_question(table: Table, names: Mapping[str, str], points: Sequence[str], first: str, second: str) -> Question:
    """Accuracy of two arms, each seed's mean over ``points``."""
    a, b = (table.mean_over(arm, points, "accuracy") for arm in (first, second))
    return Question(f"{names[first]} minus {names[second]}", a, b)


def reported(title: str, question: str, claims: Sequence[Claim], grids: Sequence[Grid], picture: Figure) -> Report:
    """Claims that no arm speaks to are left out."""
    asked = [claim for claim in claims if claim.questions]
    families = {claim.measured: compare(claim.questions) for claim in asked}
    if len(families) != len(asked):
        raise ValueError("Two claims have the same heading.")
    verdicts = [verdict(claim.sentence, families[claim.measured]) for claim in asked]
    return Report(title, question, verdicts, families, grids, picture)


def grid(title: str, first: str, table: Table, names: Mapping[Place, str], columns: Mapping[str, str]) -> Grid:
    """A row an arm, a column a measure."""
    rows = [[name, *(shown(table.values(*place, measure)) for measure in columns)] for place, name in names.items()]
    return Grid(title, [first, *columns.values()], rows)


def draw_arms(axes: Axes, table: Table, names: Mapping[Place, str], measures: Mapping[str, str]) -> None:
    """Arms from top to bottom, one mark with its interval for each measure."""
    for number, (measure, label) in enumerate(measures.items()):
        shift = 0.16 * (number - (len(measures) - 1) / 2)
        found = [(row, over_seeds(table.values(*place, measure))) for row, place in enumerate(names)]
        marks = [(row, interval) for row, interval in found if interval]
        axes.errorbar(
            [interval.value for _, interval in marks],
            [row + shift for row, _ in marks],
            xerr=[interval.high - interval.value if interval.clusters > 1 else 0.0 for _, interval in marks],
            fmt="os^D"[number % 4],
            color=COLOURS[number % len(COLOURS)],
            markersize=5,
            capsize=2.5,
            linestyle="none",
            label=label,
        )
    axes.set_yticks(range(len(names)), list(names.values()), fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)


def finish_arms(axes: Axes, title: str, xlabel: str = "", legend: bool = True) -> None:
    """Labels, a light grid, the legend below; shares end at 0 and 1."""
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.02), min(high, 1.02))
    axes.set(title=title, xlabel=xlabel)
    axes.grid(alpha=0.25)
    if legend:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def constant(like: Values, value: float) -> Values:
    """A bar to compare with: the same for every seed."""
    return dict.fromkeys(like, value)
