"""The result of one judge on one benchmark, as a value and as JSON: every score three ways, and what qualifies them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.evaluation.benchmarks.base import Benchmark, ScoreRule
from training.evaluation.benchmarks.files import FileRecord
from training.evaluation.items import Failure, Item, Judged
from training.evaluation.metrics import METRICS, Score, Units, length_only, score, units_of
from training.evaluation.statistics import Interval, clustered_interval

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One score by each way of counting (keys of `METRICS`; ``valid_only``: two orders, failed judgments left out).

    ``length`` is what picking the longer response gets. ``units`` are pairs or lists, ``prompts`` the clusters of the
    intervals. ``missing`` names what the data does not have of the score's parts.
    """

    name: str
    headline: bool
    units: int
    prompts: int
    missing: tuple[str, ...]
    two_orders: Interval
    single_order: Interval
    both_orders: Interval
    valid_only: Interval | None
    length: Interval

    @property
    def title(self) -> str:
        """The name, with what is missing: an incomplete score is never shown under the plain name."""
        if not self.missing:
            return self.name
        names = ", ".join(name.rpartition("/")[2] for name in self.missing)
        return f"{self.name}, without {names if len(names) <= 40 else f'{len(self.missing)} parts'}"


@dataclass(frozen=True, slots=True)
class Health:
    """What qualifies the scores. Rates are shares of all pairs (``invalid``) or of the valid ones (the others).

    ``flips``: the two orders favour different responses. ``ties``: the mean of both orders is exactly one half.
    ``first``: how often an order prefers the response it shows first (without position bias: one half).
    ``label_mass``: mean probability of the two labels together, None where none was read.
    """

    pairs: int
    invalid: Interval
    flips: Interval | None
    ties: int
    first: float | None
    label_mass: float | None
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """``limit`` None: the whole benchmark; ``identical``: pairs of two equal responses, which nobody can get right."""

    benchmark: str
    title: str
    official: str
    judge: str
    version: str
    seed: int
    limit: int | None
    identical: int
    files: tuple[FileRecord, ...]
    scores: tuple[ScoreLine, ...]
    health: Health

    @property
    def headline(self) -> ScoreLine:
        return self.scores[0]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, **_json(self)}, indent=2, ensure_ascii=False) + "\n", "utf-8")


def evaluate(
    benchmark: Benchmark,
    judged: Sequence[Judged],
    *,
    judge: str,
    version: str,
    files: Sequence[FileRecord] = (),
    seed: int = 0,
    limit: int | None = None,
) -> Result:
    """All scores of a benchmark from judged items."""
    items = [one.item for one in judged]
    units = {name: units_of(judged, metric) for name, metric in METRICS.items()}
    units["length"] = units_of(judged, length_only)
    lines = [_line(rule, units) for rule in benchmark.rules(_cells(items))]
    return Result(
        benchmark=benchmark.name,
        title=benchmark.title,
        official=benchmark.official,
        judge=judge,
        version=version,
        seed=seed,
        limit=limit,
        identical=sum(item.pair.response_a == item.pair.response_b for item in items),
        files=tuple(files),
        scores=tuple(line for line in lines if line is not None),
        health=health_of(judged),
    )


def _cells(items: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(item.cell for item in items))


def _line(rule: ScoreRule, units: dict[str, Units]) -> ScoreLine | None:
    """None where the data has nothing of the rule's at all."""
    found: dict[str, Score] = {}
    for name, mine in units.items():
        value = score(rule, mine)
        if value is None:
            return None
        found[name] = value
    valid, two = score(rule, units["two_orders"], valid_only=True), found["two_orders"]
    return ScoreLine(
        name=rule.name,
        headline=rule.headline,
        units=two.units,
        prompts=two.interval.clusters,
        missing=two.missing,
        two_orders=two.interval,
        single_order=found["single_order"].interval,
        both_orders=found["both_orders"].interval,
        valid_only=valid.interval if valid else None,
        length=found["length"].interval,
    )


def health_of(judged: Sequence[Judged]) -> Health:
    """Rates over all pairs, whatever the benchmark's weights."""
    valid = [(one, one.verdict) for one in judged if one.verdict is not None]
    groups = [one.item.group for one in judged]
    masses = [verdict.label_mass for _, verdict in valid if verdict.label_mass is not None]
    shown_first = [p > 0.5 for _, verdict in valid for p in (verdict.p_ab, verdict.p_ba) if p != 0.5]
    return Health(
        pairs=len(judged),
        invalid=clustered_interval([float(one.verdict is None) for one in judged], groups),
        flips=clustered_interval([float(not v.consistent) for _, v in valid], [o.item.group for o, _ in valid])
        if valid
        else None,
        ties=sum(verdict.p_first == 0.5 for _, verdict in valid),
        first=sum(shown_first) / len(shown_first) if shown_first else None,
        label_mass=sum(masses) / len(masses) if masses else None,
        errors=dict(Counter(one.outcome.code for one in judged if isinstance(one.outcome, Failure)).most_common()),
    )


def _json(result: Result) -> dict[str, Any]:
    data = asdict(result)
    for line, row in zip(result.scores, data["scores"], strict=True):
        row["title"] = line.title
    return data


def load_result(path: Path) -> dict[str, Any]:
    """A saved result as plain JSON. Raises `ValueError` for another format."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of this version (format {data.get('format')}).")
    return data
