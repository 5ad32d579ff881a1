"""One command gives the whole adaptation curve, and an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.manifest import JudgeEntry, Manifest
from tests.support.tiny_training import adapt_recipe, language_model
from tests.training.stages.test_finetune import Interrupt
from training.configs import AdaptRecipe
from training.data.pairs import DataError
from training.stages import adaptation
from training.stages.adaptation import adapt_to_sizes

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


def _recipe(directory: Path, **changes: Any) -> AdaptRecipe:
    judge = language_model(directory / "judge")
    Manifest("start", (JudgeEntry("gram", "gram", "gram", ("A", "B"), 511, 0),)).save(judge)
    given: dict[str, Any] = {"model": {"path": str(judge)}, "schedule": {"epochs": 1.0, "steps": None}}
    return adapt_recipe(directory, **(given | changes))


@pytest.mark.slow
def test_a_curve_is_one_command_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(tmp_path, output={"save_every": 1})
    seen: list[tuple[int, bool]] = []
    whole = adaptation.finetune

    def once(one: AdaptRecipe, *, resume: bool = False) -> Any:
        seen.append((one.data.limit or 0, resume))
        stop = [Interrupt(3)] if one.data.limit == 16 and not resume else []
        return whole(one, resume=resume, callbacks=stop)

    monkeypatch.setattr(adaptation, "finetune", once)
    with pytest.raises(KeyboardInterrupt):
        adapt_to_sizes(recipe, [16, 0, 8])
    points = adapt_to_sizes(recipe, [16, 0, 8], resume=True)
    assert seen == [(0, False), (8, False), (16, False), (16, True)], "what is finished is not trained again"
    assert [p.pairs for p in points] == [0, 8, 16]
    for point in points:
        manifest = Manifest.load(point.checkpoint)
        assert manifest is not None and manifest.version == f"adapt-{point.pairs}"
        final = json.loads((tmp_path / "runs" / f"adapt-{point.pairs}" / "final.json").read_text("utf-8"))
        assert point.accuracy.value == pytest.approx(final["accuracy"])
        assert point.accuracy.low <= point.accuracy.value <= point.accuracy.high
        assert point.accuracy.clusters < 12, "held-out pairs of one prompt are one cluster"
    written = json.loads((tmp_path / "runs" / "adapt" / "curve.json").read_text("utf-8"))
    assert [row["pairs"] for row in written] == [0, 8, 16]
    assert (tmp_path / "runs" / "adapt" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| 16 | " in (tmp_path / "runs" / "adapt" / "curve.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("sizes", "changes", "complaint"),
    [
        ([0, 65], {}, r"65 pairs are asked for, data\.train holds 64"),
        ([8, -5], {}, "-5 pairs cannot be trained on"),
        ([0, 8], {"data": {"evaluation": ""}}, r"needs held-out pairs: give data\.evaluation"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused_first(
    tmp_path: Path, sizes: list[int], changes: dict[str, Any], complaint: str
) -> None:
    recipe = _recipe(tmp_path, **changes)
    with pytest.raises(DataError, match=complaint):
        adapt_to_sizes(recipe, sizes)
    assert not Path(recipe.output.runs).exists()
