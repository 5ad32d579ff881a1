"""Recipes of whole runs: the shipped ones load, their headers say what the arithmetic says, wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.scripted_selftrain import recipe
from training.data.judgments import read_judgments
from training.data.pairs import DataError, read_pairs
from training.estimate import GB
from training.pipelines.gram_r2 import RECIPES, SIZES, recipe_in, write_data
from training.planning import Machine
from training.selftrain.planning import lines, parts
from training.selftrain.recipe import SelfTrainRecipe, load_selftrain

LARGE = ("3b", "8b")


@pytest.mark.parametrize("name", [*LARGE, *SIZES])
def test_every_shipped_recipe_loads_with_all_its_stages(name: str) -> None:
    made = load_selftrain(RECIPES / f"{name}.toml")
    prover = made.prove_recipe(Path("x"))
    first = made.reason_recipe("start", "start", Path("x"), made.backbone, (Path("x"),))
    assert (prover.stage, first.stage, first.family) == ("prove", "reason", "gram_r2")
    assert prover.version != first.version


@pytest.mark.parametrize("name", LARGE)
def test_the_header_of_a_large_recipe_is_its_own_arithmetic(name: str) -> None:
    text = (RECIPES / f"{name}.toml").read_text()
    made = load_selftrain(RECIPES / f"{name}.toml")
    for line in lines(made, Machine()):
        assert f"# {line}\n" in text
    assert all(part.memory is None or part.memory.total < 80 * GB for part in parts(made, Machine()))
    trained = [part for part in parts(made, Machine()) if part.memory is not None]
    assert [part.name for part in trained] == ["prover", "start", "round 1", "round 2", "round 3", "final"]
    assert trained[1].hours < trained[2].hours < trained[3].hours < trained[4].hours


def test_choosing_by_likelihood_reads_every_proof_twice() -> None:
    """With its pair, a row's tokens, and alone, a text's; without the choice nothing is read."""
    made = load_selftrain(RECIPES / "8b.toml")
    assert made.expect is not None
    scored = {part.name: part for part in parts(made, Machine()) if part.name.endswith("scores")}
    assert list(scored) == ["labelled pairs: scores", *(f"round {n}: scores" for n in (1, 2, 3))]
    proofs = made.expect.labelled * made.proofs.candidates
    tokens = proofs * (made.expect.row_tokens + made.expect.text_tokens)
    lowest = tokens * 2 * 14.0e9 / (8 * 312e12 * 0.4) / 3600
    assert lowest < scored["labelled pairs: scores"].hours < 1.3 * lowest
    drawn = made.model_copy(update={"proofs": made.proofs.model_copy(update={"policy": "random"})})
    assert not any("scores" in part.name for part in parts(drawn, Machine()))


def test_a_plan_needs_to_know_how_much_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no table \[expect\]"):
        parts(recipe(tmp_path), Machine())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps_like": "runs/other"}, "give data.unlabelled, or steps_like"),
        ({"stages": {"shared": {"model": {"path": "elsewhere"}}}}, "stages.shared.model.path is decided by the run"),
        ({"stages": {"round": {"version": "x"}}}, "stages.round.version is decided by the run"),
        ({"labels": {"min_confidnce": 0.9}}, "min_confidnce"),
        ({"proofs": {"candidates": 0}}, "candidates"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=complaint):
        recipe(tmp_path, **changes)


def test_a_wrong_stage_table_is_told_when_the_file_is_read(tmp_path: Path) -> None:
    text = (RECIPES / "smoke.toml").read_text().replace("warmup", "wormup").replace("shared_prefix", "shared_prefiks")
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(DataError, match=r"wrong\.toml: stages\.prove \(with stages\.shared\): batch\.shared_prefiks"):
        load_selftrain(tmp_path / "wrong.toml")
    with pytest.raises(DataError, match="does not exist"):
        load_selftrain(tmp_path / "none.toml")


def test_a_round_has_the_tables_of_the_start_under_its_own(tmp_path: Path) -> None:
    made = recipe(
        tmp_path,
        stages={
            "shared": {"optimizer": {"learning_rate": 1e-3}, "batch": {"rows": 4, "rows_per_device": 4}},
            "start": {"schedule": {"steps": 5, "kind": "linear"}},
            "round": {"schedule": {"steps": 9}},
        },
    )
    later = made.reason_recipe("round", "round-01", Path("x"), "y", (Path("z"),))
    assert (later.schedule.steps, later.schedule.kind) == (9, "linear")
    matched = made.reason_recipe("round", "round-01", Path("x"), "y", (Path("z"),), steps=7)
    assert matched.schedule.steps == 7


def test_the_pipelines_data_is_the_same_each_time_and_disjoint(tmp_path: Path) -> None:
    sizes = SIZES["smoke"]
    for name in ("one", "two"):
        write_data(tmp_path / name, sizes, 1)
    files = sorted((tmp_path / "one").iterdir())
    assert [file.read_bytes() for file in files] == [(tmp_path / "two" / file.name).read_bytes() for file in files]
    made = recipe_in("smoke", tmp_path)
    assert isinstance(made, SelfTrainRecipe)
    pairs = [one.pair for one in read_judgments(tmp_path / "one" / "rationales.jsonl")]
    assert len(pairs) == sizes.rationales
    for name, count in (("labelled", sizes.labelled), ("unlabelled", sizes.unlabelled), ("dev", sizes.evaluation)):
        found = list(read_pairs(tmp_path / "one" / f"{name}.jsonl"))
        assert len(found) == count
        assert {pair.subset for pair in found} == set(sizes.tasks)
        pairs += found
    texts = {(pair.prompt, *sorted((pair.response_a, pair.response_b))) for pair in pairs}
    assert len(texts) == len(pairs)
