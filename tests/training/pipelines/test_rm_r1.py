"""RM-R1 in one command: its steps, its recipes, and what its teacher says. `test_killed` runs all of it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from service.judging.rm_r1 import INSTRUCT, REASONER
from training.data.demo_rubrics import TASK_TYPES, trace
from training.data.demo_tasks import ALL_TASKS, draw
from training.data.pairs import DataError
from training.pipelines.rm_r1 import SIZES, distill_recipe, grpo_recipe
from training.pipelines.steps import Steps


def test_a_step_is_done_once_and_other_settings_are_refused(tmp_path: Path) -> None:
    counts: list[int] = []

    def work() -> int:
        counts.append(1)
        return len(counts)

    assert Steps(tmp_path, {"seed": 1}).do("first", work) == 1
    assert Steps(tmp_path, {"seed": 1}).do("first", work) == 1
    with pytest.raises(DataError, match="other settings"):
        Steps(tmp_path, {"seed": 2})


@pytest.mark.parametrize("size", SIZES)
def test_the_recipes_are_rm_r1s(size: str, tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, SIZES[size], 1)
    assert (recipe.rollout.group, recipe.rollout.temperature, recipe.objective.kl, recipe.objective.clip) == (
        7,
        1,
        1e-3,
        0.2,
    )
    assert recipe.updates == 2
    assert distill_recipe(tmp_path, SIZES[size], 1).family == "rm_r1"
    assert distill_recipe(tmp_path, SIZES[size], 1).batch.rows % 2 == 0, "a step holds both orders of its pairs"


@pytest.mark.parametrize("task", ALL_TASKS)
def test_a_lesson_is_a_judgment_of_its_type(task: str) -> None:
    pair = draw(task, Random(task), from_held_out=False)
    for family in (INSTRUCT, REASONER):
        for right_first, letter in ((True, "A"), (False, "B")):
            parsed = family.parse(trace(pair, right_first))
            assert (parsed.verdict, parsed.conflicting) == (letter, 0)
            assert parsed.sections["type"].lower() == TASK_TYPES[task]
            assert parsed.sections.keys() - {"eval"} == {
                "type",
                "solution" if TASK_TYPES[task] == "reasoning" else "rubric",
            }
