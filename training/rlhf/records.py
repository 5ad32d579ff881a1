"""What a run leaves behind: a row of figures for each step, the report at its end, and their picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from matplotlib.figure import Figure
from tqdm import tqdm

METRICS, REPORT, PICTURE = "metrics.jsonl", "report.json", "curves.png"


class Record:
    """Writes ``metrics.jsonl`` row by row, so that a run can be watched, and shows how far it is."""

    def __init__(self, directory: Path, steps: int, title: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / METRICS).open("w", encoding="utf-8")
        self._bar = tqdm(total=steps, desc=title, unit="step", disable=None, smoothing=0.1)
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._bar.close()

    def add(self, figures: Mapping[str, float]) -> None:
        """One step's figures. What is no number is written as null: JSON has no NaN."""
        row = {name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, key in (("score", "score"), ("kl", "kl"), ("gold", "validation/gold"), ("proxy", "validation/proxy")):
            if key in figures:
                self._shown[name] = f"{figures[key]:.3f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(int(figures["step"]) - self._bar.n)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The rows of a run; figures that were no number are left out."""
    lines = (directory / METRICS).read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if value is not None} for line in lines]


def write_report(directory: Path, report: Mapping[str, Any]) -> None:
    """``report.json`` and the picture of ``metrics.jsonl``."""
    text = json.dumps(report, indent=1, sort_keys=True)
    (directory / REPORT).write_text(text + "\n", encoding="utf-8")
    draw(read_metrics(directory), chosen=int(report["chosen_step"])).savefig(directory / PICTURE, dpi=130)


def draw(rows: Sequence[Mapping[str, float]], chosen: int) -> Figure:
    """Oracle and judge against steps, distance from the old policy, rewards, and quality against distance."""
    figure = Figure(figsize=(12.0, 6.4), layout="constrained")
    quality, distance, rewards, optimism = figure.subplots(2, 2).flat
    for key, label in (
        ("validation/gold", "oracle: right, greedy"),
        ("validation/gold_sampled", "oracle: right, sampled"),
        ("validation/proxy", "judge: P(better than the old policy)"),
        ("validation/win_rate", "oracle: win rate over the old policy"),
    ):
        quality.plot(*_series(rows, key), marker="o", markersize=3, label=label)
    quality.axvline(chosen, color="grey", linestyle=":", label="chosen by the judge")
    quality.set(title="Validation questions", xlabel="step", ylim=(0, 1))
    quality.legend(fontsize=7)
    if any("kl" in row for row in rows):
        distance.plot(*_series(rows, "kl"), linewidth=0.8, label="training samples")
    distance.plot(*_series(rows, "validation/kl"), marker="o", markersize=3, label="validation samples")
    distance.set(title="KL from the old policy", xlabel="step", ylabel="nats a response")
    distance.legend(fontsize=7)
    if any("reward_std" in row for row in rows):  # scores within groups, whose mean is 0.5 whatever the policy does
        rewards.plot(*_series(rows, "reward_std"), linewidth=0.8)
        rewards.set(title="Spread of the training samples' scores", xlabel="step", ylabel="standard deviation")
    else:
        rewards.plot(*_series(rows, "score"), linewidth=0.8)
        rewards.set(title="Score of the training samples", xlabel="step", ylabel="mean score")
    examined = [row for row in rows if {"validation/kl", "validation/gold", "validation/proxy"} <= row.keys()]
    roots = [math.sqrt(max(0.0, row["validation/kl"])) for row in examined]
    optimism.plot(roots, [row["validation/proxy"] for row in examined], "o-", markersize=3, label="judge")
    optimism.plot(roots, [row["validation/win_rate"] for row in examined], "s-", markersize=3, label="oracle")
    optimism.set(title="Over-optimisation", xlabel="square root of the KL", ylabel="win rate over the old policy")
    optimism.legend(fontsize=7)
    for axes in (quality, distance, rewards, optimism):
        axes.grid(alpha=0.25)
    return figure


def _series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[key]) for row in rows if key in row]
    return [step for step, _ in found], [value for _, value in found]
