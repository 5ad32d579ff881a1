"""The real stages and the real engine under the loop, as far as a prover of two steps carries them.

`test_killed` runs all of it, at the smallest size that comes to its end.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.pairs import DataError
from training.pipelines.gram_r2 import SIZES, Sizes, recipe_in, write_data
from training.selftrain.card import summary
from training.selftrain.directory import read_manifest
from training.selftrain.driver import selftrain


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_an_untrained_prover_is_told_by_the_rules_that_drop_its_proofs(tmp_path: Path) -> None:
    write_data(tmp_path / "data", Sizes(rationales=12, labelled=6, unlabelled=12, evaluation=6), 1)
    made = recipe_in("smoke", tmp_path)
    shorter = {"prove": {**made.stages.prove, "schedule": {"steps": 2}}}
    small = made.model_copy(
        update={
            "stages": made.stages.model_copy(update=shorter),
            "proofs": made.proofs.model_copy(update={"candidates": 1, "max_tokens": 12}),
        }
    )
    for resume in (False, True):  # the second time with the prover of the first
        with pytest.raises(DataError, match=r"start/proofs: no rationale is left of 6 \(no proof passed 6, .*\d\);"):
            selftrain(small, resume=resume)
        steps = read_manifest(small.run)["steps"]
        assert list(steps) == ["prepare", "prover"]
        assert steps["prover"]["figures"]["steps"] == 2
    assert (small.run / "prover" / "checkpoint" / "model.safetensors").is_file()
    assert len((small.run / "start" / "proofs.jsonl").read_text().splitlines()) == 1 + 6


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_a_shipped_recipe(size: str) -> None:
    made = recipe_in(size, Path("somewhere"))
    assert (made.version, made.run) == (f"gram-r2-{size}", Path("somewhere/run"))
    assert summary(made, {"prepare": {"evaluation": 3}}) == ["no data.evaluation: no judge was measured"]
