"""Does label smoothing help where labels are wrong and style misleads? (GRAM, arXiv 2506.14175, sections 3.3 and 4.)

Every arm begins from the same random weights - but the frozen one, which needs a transformer that has read something:
stage 1 on unlabelled pairs of all tasks - and is trained on the same labelled pairs. In training the better response is
the styled one 7 times in 10, on the ``hard`` set 3 in 10.
``held_out`` is a task without labels, ``longer`` has one digit more than any training prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import nn

from training.studies.backbone import begin_from, derived_seed, pretrain, random_for
from training.studies.fitting import Objective, Plan, epochs_of, fit, reward_difference, smoothed_preference
from training.studies.grid import Unit
from training.studies.judges import Judge, Shape, new_judge
from training.studies.measures import measure
from training.studies.tasks import Source, draw

BACKBONE, FROZEN = "backbone", "bt-frozen"

BASELINES: dict[str, Objective] = {
    "bt": reward_difference(),
    "bt-margin": reward_difference(margin=0.5),
    "bt-smoothed": reward_difference(alpha=0.05),
    FROZEN: reward_difference(),
    "bt-text": reward_difference(text_weight=0.01),
}
"""Scalar heads: plain; with half a nat of margin a wrong position; smoothed as the middle arm is; on a frozen
transformer; with GRM's text loss at its paper's weight."""


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    shape: Shape = Shape()
    tasks: tuple[str, ...] = ("increment", "complement")
    """Two: with a third, a pilot with 30 % wrong labels learned style alone."""
    held_out: tuple[str, ...] = ("reverse",)
    alphas: tuple[float, ...] = (0.0, 0.025, 0.05, 0.1, 0.15)
    flips: tuple[float, ...] = (0.0, 0.15, 0.3)
    baselines: tuple[str, ...] = tuple(BASELINES)
    style: float = 0.7
    labels: int = 8_000
    length: int = 3
    pretraining: Plan
    training: Plan
    test_pairs: int = 2_000


SIZES: dict[str, Setup] = {
    "micro": Setup(
        seeds=2,
        shape=Shape(width=16, layers=1, heads=2),
        alphas=(0.0, 0.05),
        flips=(0.3,),
        baselines=("bt", "bt-frozen"),
        labels=64,
        pretraining=Plan(steps=2, batch=16),
        training=Plan(steps=3, batch=16),
        test_pairs=50,
    ),
    "smoke": Setup(
        seeds=2,
        alphas=(0.0, 0.05),
        flips=(0.0, 0.3),
        baselines=("bt", "bt-smoothed"),
        labels=4_000,
        pretraining=Plan(steps=150, batch=128),
        training=Plan(steps=150, batch=128),
        test_pairs=500,
    ),
    "full": Setup(seeds=5, pretraining=Plan(steps=500, batch=128), training=Plan(steps=600, batch=128)),
}
SIZES["pilot"] = SIZES["full"].model_copy(
    update={"seeds": 1, "alphas": (0.0, 0.05), "flips": (0.0, 0.3), "baselines": ("bt",)}
)


def gram(alpha: float) -> str:
    """The name of GRAM's arm with this smoothing."""
    return f"gram-{alpha:g}"


def point(flips: float) -> str:
    """The name of a share of wrong labels."""
    return f"flips-{flips:g}"


def phases(setup: Setup) -> list[list[Unit]]:
    """What the frozen arm begins from, then every arm at every share of wrong labels."""
    arms = [*map(gram, setup.alphas), *setup.baselines]
    seeds = range(setup.seeds)
    first = [Unit(BACKBONE, "all-tasks", seed) for seed in seeds if FROZEN in setup.baselines]
    return [first, [Unit(arm, point(flips), seed) for seed in seeds for flips in setup.flips for arm in arms]]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    weights = Unit(BACKBONE, "all-tasks", unit.seed).weights(folder)
    if unit.arm == BACKBONE:
        source = Source((*setup.tasks, *setup.held_out), setup.length)
        return pretrain(setup.shape, source, setup.pretraining, unit.seed, weights)
    flips = next(flips for flips in setup.flips if point(flips) == unit.point)
    labelled = draw(
        Source(setup.tasks, setup.length, setup.style, flips), setup.labels, random_for("labelled", unit.seed)
    )
    alphas = {gram(alpha): alpha for alpha in setup.alphas}
    is_gram = unit.arm in alphas
    kind: Literal["generative", "scalar"] = "generative" if is_gram else "scalar"
    judge = new_judge(kind, setup.shape, derived_seed("weights", unit.seed))
    trained: nn.Module = judge
    if unit.arm == FROZEN:
        begin_from(judge, weights)
        judge.body.requires_grad_(False)
        trained = judge.get_submodule("head")
    objective = smoothed_preference(alphas[unit.arm]) if is_gram else BASELINES[unit.arm]
    batches = epochs_of(labelled, setup.training.batch, derived_seed("epochs", unit.seed))
    loss = fit(judge, batches, setup.training, objective, trained, derived_seed("order", unit.seed))
    return {"loss": loss, **tested(judge, setup, unit.seed)}


def tested(judge: Judge, setup: Setup, seed: int) -> dict[str, float]:
    """Every measure on every test set; a seed's test sets are the same for all arms."""
    sets = {
        "id": Source(setup.tasks, setup.length, setup.style, test=True),
        "hard": Source(setup.tasks, setup.length, 1.0 - setup.style, test=True),
        "held_out": Source(setup.held_out, setup.length, test=True),
        "longer": Source(setup.tasks, setup.length + 1, test=True),
    }
    return {
        f"{name}/{key}": value
        for name, source in sets.items()
        for key, value in measure(judge, draw(source, setup.test_pairs, random_for("test", name, seed))).items()
    }
