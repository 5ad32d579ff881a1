"""Published figures, read from one file: what was measured elsewhere, how it was counted, where it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from service.judging.registry import get_family
from training.data.pairs import DataError
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.metrics import METRICS

Counting = Literal["two_orders", "single_order", "both_orders"]
_KEYS = {"names", "family", "template", "counting", "source", "note", "figures"}


@dataclass(frozen=True, slots=True)
class Published:
    """One released judge. ``figures``: benchmark -> score's name -> share in [0, 1]; ``counting`` is a column of
    `results.ScoreLine`."""

    names: tuple[str, ...]
    family: str
    template: str | None
    counting: Counting
    source: str
    note: str
    figures: Mapping[str, Mapping[str, float]]

    @property
    def name(self) -> str:
        return self.names[0]


def load_published(path: Path | None = None) -> list[Published]:
    """Every judge of the file (default: the one that comes with this package). Raises `DataError`."""
    source = path or files("training.evaluation.verify") / "published.toml"
    try:
        rows = tomllib.loads(source.read_text(encoding="utf-8"))["judge"]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; correct --published.") from error
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise DataError(f"{path}: no [[judge]] can be read from it ({error}).") from error
    return [_published(row) for row in rows]


def find(published: list[Published], model: str) -> Published | None:
    """The judge whose name the checkpoint's last path component is, without regard to case."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    return next((one for one in published if name in (known.lower() for known in one.names)), None)


def _published(row: Mapping[str, Any]) -> Published:
    where = f"published figures of {(row.get('names') or ['?'])[0]}"
    if unknown := sorted(set(row) - _KEYS):
        raise DataError(f"{where}, field {unknown[0]}: unknown.")
    try:
        get_family(row["family"], row.get("template"))
        figures = {
            name: {score: cent / 100 for score, cent in scores.items()} for name, scores in row["figures"].items()
        }
        made = Published(
            tuple(row["names"]),
            row["family"],
            row.get("template"),
            row["counting"],
            row["source"],
            row.get("note", ""),
            figures,
        )
    except KeyError as error:
        raise DataError(f"{where}, field {error.args[0]}: missing.") from error
    if made.counting not in METRICS:
        raise DataError(f"{where}, field counting: {made.counting} is none of {', '.join(METRICS)}.")
    for name, scores in figures.items():
        if name not in BENCHMARKS or not all(0 <= share <= 1 for share in scores.values()):
            raise DataError(f"{where}, field figures.{name}: no benchmark, or a figure that is no percentage.")
    return made
