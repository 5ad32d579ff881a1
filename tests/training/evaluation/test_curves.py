"""A run's picture: the stages of a run after one another, and one sentence where there is nothing to draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data.pairs import DataError
from training.evaluation import curves


def _history(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_stages_are_drawn_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _history(tmp_path / "one.jsonl", {"step": 10, "responses": 2.0}, {"step": 30, "responses": 1.0})
    second = _history(
        tmp_path / "two.jsonl", {"step": 10, "label": 0.7}, {"step": 20, "label": 0.3}, {"step": 20, "eval_accuracy": 1}
    )
    drawn: dict[str, list[float]] = {}
    finish = curves._finish

    def spy(axes: Any, borders: Any) -> None:
        drawn.update({line.get_label(): list(line.get_xdata()) for line in axes.lines})
        assert borders == [30]
        finish(axes, borders)

    monkeypatch.setattr(curves, "_finish", spy)
    curves.draw_curves([first, second], tmp_path / "pictures" / "run.png")
    assert drawn == {
        curves.LOSSES["responses"]: [10, 30],
        curves.LOSSES["label"]: [40, 50],
        curves.FIGURES["accuracy"]: [50],
    }
    assert (tmp_path / "pictures" / "run.png").stat().st_size > 0


def test_a_run_without_a_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl does not exist"):
        curves.draw_curves([tmp_path / "gone.jsonl"], tmp_path / "run.png")


def test_a_history_of_nothing_says_so(tmp_path: Path) -> None:
    curves.draw_curves([_history(tmp_path / "empty.jsonl")], tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 0
