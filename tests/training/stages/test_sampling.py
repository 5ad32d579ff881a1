"""Which rows a step sees is decided by seed and epoch; how they lie in its micro-batches only saves padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.types import Prompt
from tests.support.tiny_training import finetune_recipe, pairs
from tests.training.stages.test_finetune import losses
from training.data.pairs import Pair
from training.stages.datasets import Interleaved, PairDataset
from training.stages.examples import Example
from training.stages.finetune import finetune
from training.stages.sampling import StepSampler, padded_share


def _dataset(n: int = 100) -> PairDataset:
    rows = [Pair(f"p{i}", Prompt.from_text("q"), "x" * (i * 37 % 101 + 1), "y") for i in range(n)]
    return PairDataset(rows, lambda pair, _: Example((int(pair.id[1:]),)))


def _sampler(dataset: Any, directory: Path, rows_per_device: int, **data: Any) -> StepSampler:
    return StepSampler(
        dataset, finetune_recipe(directory, batch={"rows": 16, "rows_per_device": rows_per_device}, data=data)
    )


def test_a_step_sees_the_same_rows_in_every_division(tmp_path: Path) -> None:
    whole, parts = (list(_sampler(_dataset(), tmp_path, at_once)) for at_once in (16, 2))
    assert sorted(whole) == sorted(parts) == list(range(100))
    assert whole != parts
    for start in range(0, 100, 16):
        assert sorted(whole[start : start + 16]) == sorted(parts[start : start + 16])


def test_micro_batches_pad_less(tmp_path: Path) -> None:
    dataset = _dataset()
    drawn, sorted_ = (
        padded_share(dataset.lengths(), list(_sampler(dataset, tmp_path, at_once)), 2) for at_once in (16, 2)
    )
    assert sorted_ < 0.1 < 0.2 < drawn


def test_every_epoch_is_drawn_anew_and_told_to_the_data(tmp_path: Path) -> None:
    """accelerate tells a data set of the epoch in one process only; ``swap = "random"`` must not depend on that."""
    told: list[int] = []
    dataset = _dataset()
    dataset.set_epoch = told.append  # type: ignore[method-assign]
    sampler = _sampler(dataset, tmp_path, 2)
    first = list(sampler)
    sampler.set_epoch(3)
    assert told == [3]
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_curriculum_keeps_its_steps(tmp_path: Path) -> None:
    assert list(_sampler(_dataset(), tmp_path, 16, shuffle=False)) == list(range(100))
    order = list(_sampler(_dataset(), tmp_path, 2, shuffle=False))
    assert sorted(order[:16]) == list(range(16))


def test_lengths_follow_the_rows() -> None:
    dataset = PairDataset(pairs(3), lambda pair, _: Example((1,)), "both")
    one = [len(p.prompt.messages[0].content) + len(p.response_a) + len(p.response_b) for p in pairs(3)]
    assert dataset.lengths() == [size for size in one for _ in range(2)]
    mixed = Interleaved(_dataset(4), _dataset(2))
    assert sorted(mixed.lengths()) == sorted(_dataset(4).lengths() + _dataset(2).lengths())
    assert len(mixed.lengths()) == len(mixed) == 6


@pytest.mark.slow
def test_rows_made_by_workers_are_the_same_rows(tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        recipe = finetune_recipe(
            tmp_path, version=f"workers-{workers}", data={"workers": workers, "swap": "random"},
            batch={"rows": 16, "rows_per_device": 4}, schedule={"steps": 6},
        )  # fmt: skip
        finetune(recipe)
        found.append(losses(recipe.run_directory))
    assert len(found[0]) == 6
    assert found[0] == pytest.approx(found[1], abs=1e-7)
