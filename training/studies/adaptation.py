"""How many labels does a new task need? (GRAM, arXiv 2506.14175, section 4: summarisation and harmlessness there.)

The new task, a digit-wise function that no other uses, is one that no label was given for. Four beginnings, then n
labelled pairs of it:

    scratch      random weights
    generic      stage 2 on labels of the other tasks
    gram         stage 1 on unlabelled pairs of the other tasks, then the same stage 2
    gram-domain  stage 1 on unlabelled pairs of all tasks, the new one included, then the same stage 2
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.studies.backbone import begin_from, derived_seed, pretrain, random_for, save_weights
from training.studies.fitting import Plan, epochs_of, fit, smoothed_preference
from training.studies.grid import Unit
from training.studies.judges import Judge, Shape, new_judge
from training.studies.measures import measure
from training.studies.tasks import Source, draw

SCRATCH, GENERIC, GRAM, DOMAIN = "scratch", "generic", "gram", "gram-domain"
ARMS = (SCRATCH, GENERIC, GRAM, DOMAIN)
STAGE1 = (GRAM, DOMAIN)
PRETRAINED, PREPARED = "stage-1", "stage-2"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    shape: Shape = Shape()
    known: tuple[str, ...] = ("complement", "reverse", "rotate")
    new: tuple[str, ...] = ("increment",)
    labels: tuple[int, ...] = (0, 62, 250, 1_000)
    known_labels: int = 8_000
    length: int = 3
    alpha: float = 0.05
    pretraining: Plan
    training: Plan
    warm_rate: float = 0.4
    """Learning rates of stage 2 after a stage 1, relative to those from random weights."""
    adapting: Plan
    test_pairs: int = 2_000


SIZES: dict[str, Setup] = {
    "micro": Setup(
        seeds=2,
        shape=Shape(width=16, layers=1, heads=2),
        labels=(0, 32),
        known_labels=64,
        pretraining=Plan(steps=2, batch=16),
        training=Plan(steps=3, batch=16),
        adapting=Plan(steps=2, batch=16),
        test_pairs=50,
    ),
    "smoke": Setup(
        seeds=2,
        labels=(0, 500),
        known_labels=4_000,
        pretraining=Plan(steps=150, batch=128),
        training=Plan(steps=150, batch=128),
        adapting=Plan(steps=50, batch=128, rate=0.5),
        test_pairs=500,
    ),
    "full": Setup(
        seeds=5,
        pretraining=Plan(steps=500, batch=128),
        training=Plan(steps=600, batch=128),
        adapting=Plan(steps=200, batch=128, rate=0.5),
    ),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1, "labels": (0, 1_000)})


def point(labels: int) -> str:
    """The name of a number of labels of the new task."""
    return f"labels-{labels}"


def phases(setup: Setup) -> list[list[Unit]]:
    """Stage 1, stage 2 on the known tasks, then every arm at every number of labels of the new one."""
    seeds = range(setup.seeds)
    return [
        [Unit(PRETRAINED, arm, seed) for seed in seeds for arm in STAGE1],
        [Unit(PREPARED, arm, seed) for seed in seeds for arm in ARMS if arm != SCRATCH],
        [Unit(arm, point(n), seed) for seed in seeds for n in setup.labels for arm in ARMS],
    ]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    if unit.arm == PRETRAINED:
        read = setup.known if unit.point == GRAM else (*setup.known, *setup.new)
        source = Source(read, setup.length)
        return pretrain(setup.shape, source, setup.pretraining, unit.seed, unit.weights(folder))
    judge = new_judge("generative", setup.shape, derived_seed("weights", unit.seed))
    if unit.arm == PREPARED:
        return prepare(judge, unit, setup, folder)
    if unit.arm != SCRATCH:
        begin_from(judge, Unit(PREPARED, unit.arm, unit.seed).weights(folder))
    labels = next(n for n in setup.labels if point(n) == unit.point)
    if labels:
        labelled = draw(Source(setup.new, setup.length), max(setup.labels), random_for("new", unit.seed)).take(
            slice(labels)
        )
        batches = epochs_of(labelled, setup.adapting.batch, derived_seed("epochs", unit.seed))
        fit(judge, batches, setup.adapting, smoothed_preference(setup.alpha), judge, derived_seed("order", unit.seed))
    return tested(judge, setup, unit.seed)


def prepare(judge: Judge, unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """Stage 2 on the known tasks, from the arm's stage 1 if it has one; keeps the weights."""
    plan = setup.training
    if unit.point in STAGE1:
        plan = plan.model_copy(update={"rate": setup.warm_rate})
        begin_from(judge, Unit(PRETRAINED, unit.point, unit.seed).weights(folder))
    labelled = draw(Source(setup.known, setup.length), setup.known_labels, random_for("labelled", unit.seed))
    batches = epochs_of(labelled, setup.training.batch, derived_seed("epochs", unit.seed))
    order = derived_seed("order", unit.seed)
    loss = fit(judge, batches, plan, smoothed_preference(setup.alpha), judge, order)
    save_weights(judge, unit.weights(folder))
    return {"loss": loss, **tested(judge, setup, unit.seed)}


def tested(judge: Judge, setup: Setup, seed: int) -> dict[str, float]:
    """The new task, and what became of the known ones."""
    sets = {"new": Source(setup.new, setup.length, test=True), "known": Source(setup.known, setup.length, test=True)}
    return {
        f"{name}/{key}": value
        for name, source in sets.items()
        for key, value in measure(judge, draw(source, setup.test_pairs, random_for("test", name, seed))).items()
    }
