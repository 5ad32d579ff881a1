"""How many pairs of a new task does a reasoning judge need? (GRAM-R2, arXiv 2509.02492: adaptation on 0 to 4k pairs.)

The new task is one that no judge here has seen; the known ones are as in the adaptation study. Then n pairs of it:

    scratch      random weights, labels alone
    gram         GRAM: stage 1 and stage 2 on the known tasks, then labels alone
    r2-scratch   random weights, labels with human rationales
    r2           rationales on the known tasks, then labels with human rationales
    r2-labels    the same judge, labels alone: of its own sampled rationales, those that end in the label are learned

Accuracy is of each order by itself, greedy where a rationale is written; no verdict is wrong.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.studies.backbone import begin_from, derived_seed, pretrain, random_for, save_weights
from training.studies.fitting import Plan, epochs_of, fit, smoothed_preference
from training.studies.grid import Unit
from training.studies.judges import Judge, new_judge
from training.studies.measures import measure
from training.studies.reasoning.core import FULL, MICRO, SMOKE, Core, measured, pairs_of
from training.studies.reasoning.rationales import both_orders, verdicts
from training.studies.reasoning.selftrain import own_rationales
from training.studies.reasoning.voting import cast_votes
from training.studies.reasoning.writers import Rows, Writer, learn, new_writer
from training.studies.tasks import PairSet, Source, draw

SCRATCH, GRAM, R2_SCRATCH, R2, R2_LABELS = "scratch", "gram", "r2-scratch", "r2", "r2-labels"
ARMS = (SCRATCH, GRAM, R2_SCRATCH, R2, R2_LABELS)
STAGE_ONE, PREPARED = "stage-1", "prepared"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    """Its tasks are the known ones."""
    new: tuple[str, ...] = ("increment",)
    pairs: tuple[int, ...] = (0, 62, 250, 1_000, 4_000)
    known_labels: int = 8_000
    """Labels of the known tasks, for GRAM; the reasoning judge has ``core.rationales`` of them with a rationale."""
    pretraining: Plan
    training: Plan
    warm_rate: float = 0.4
    """Learning rates of stage 2 after stage 1."""
    adapting: Plan
    alpha: float = 0.05
    samples: int = 4
    """Rationales sampled a pair, where only labels are given."""


KNOWN = {"tasks": ("complement", "reverse", "rotate")}
SIZES: dict[str, Setup] = {
    "micro": Setup(
        seeds=2,
        core=MICRO.model_copy(update=KNOWN),
        pairs=(0, 16),
        known_labels=32,
        pretraining=Plan(steps=2, batch=16),
        training=Plan(steps=2, batch=16),
        adapting=Plan(steps=2, batch=16),
        samples=2,
    ),
    "smoke": Setup(
        seeds=2,
        core=SMOKE.model_copy(update={**KNOWN, "rationales": 1_000}),
        pairs=(0, 250),
        known_labels=4_000,
        pretraining=Plan(steps=60, batch=128),
        training=Plan(steps=60, batch=128),
        adapting=Plan(steps=40, batch=32, rate=0.5),
    ),
    "full": Setup(
        seeds=5,
        core=FULL.model_copy(update={**KNOWN, "rationales": 1_000, "distilling": Plan(steps=400, batch=64)}),
        pretraining=Plan(steps=500, batch=128),
        training=Plan(steps=600, batch=128),
        adapting=Plan(steps=200, batch=32, rate=0.5),
    ),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1, "pairs": (0, 1_000)})


def point(pairs: int) -> str:
    """The name of a number of pairs of the new task."""
    return f"pairs-{pairs}"


def phases(setup: Setup) -> list[list[Unit]]:
    """Stage 1, the two judges of the known tasks, then every arm at every number of pairs."""
    seeds = range(setup.seeds)
    return [
        [Unit(STAGE_ONE, GRAM, seed) for seed in seeds],
        [Unit(PREPARED, arm, seed) for seed in seeds for arm in (GRAM, R2)],
        [Unit(arm, point(n), seed) for seed in seeds for n in setup.pairs for arm in ARMS],
    ]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    if unit.arm == STAGE_ONE:
        source = Source(core.tasks, core.length)
        return pretrain(core.shape, source, setup.pretraining, seed, unit.weights(folder))
    if unit.arm == PREPARED:
        return prepare_gram(setup, unit, folder) if unit.point == GRAM else prepare_r2(setup, unit, folder)
    given = new_pairs(setup, unit)
    if unit.arm in (SCRATCH, GRAM):
        return adapt_gram(setup, unit, given, folder)
    return adapt_r2(setup, unit, given, folder)


def new_pairs(setup: Setup, unit: Unit) -> PairSet:
    """The n pairs of the new task: the first of the most there are."""
    n = next(n for n in setup.pairs if point(n) == unit.point)
    everything = draw(Source(setup.new, setup.core.length), max(setup.pairs), random_for("new", unit.seed))
    return everything.take(slice(n))


def fresh_gram(setup: Setup, seed: int) -> Judge:
    return new_judge("generative", setup.core.shape, derived_seed("weights", seed))


def prepare_gram(setup: Setup, unit: Unit, folder: Path) -> dict[str, float]:
    """Stage 2 after stage 1, on the known tasks."""
    core, seed, judge = setup.core, unit.seed, fresh_gram(setup, unit.seed)
    begin_from(judge, Unit(STAGE_ONE, GRAM, seed).weights(folder))
    batches = epochs_of(pairs_of(core, "known", setup.known_labels, seed), setup.training.batch, seed)
    plan = setup.training.model_copy(update={"rate": setup.warm_rate})
    fit(judge, batches, plan, smoothed_preference(setup.alpha), judge, derived_seed("order", seed))
    save_weights(judge, unit.weights(folder))
    known = draw(Source(core.tasks, core.length, test=True), core.test_pairs, random_for("test", "known", seed))
    return {"known/accuracy": measure(judge, known)["one_order"]}


def prepare_r2(setup: Setup, unit: Unit, folder: Path) -> dict[str, float]:
    """Rationales of the known tasks."""
    core, seed = setup.core, unit.seed
    judge = new_writer(core.shape, seed)
    rows = Rows.true(both_orders(pairs_of(core, "known", core.rationales, seed)))
    learn(judge, rows, core.distilling, derived_seed("distil", seed))
    save_weights(judge, unit.weights(folder))
    return measured(judge, core, seed, "known/")


def adapt_gram(setup: Setup, unit: Unit, given: PairSet, folder: Path) -> dict[str, float]:
    """Labels alone."""
    seed, judge = unit.seed, fresh_gram(setup, unit.seed)
    if unit.arm == GRAM:
        begin_from(judge, Unit(PREPARED, GRAM, seed).weights(folder))
    if len(given):
        batches = epochs_of(given, setup.adapting.batch, derived_seed("epochs", seed))
        fit(judge, batches, setup.adapting, smoothed_preference(setup.alpha), judge, derived_seed("order", seed))
    core = setup.core
    test = draw(Source(setup.new, core.length, test=True), core.test_pairs, random_for("test", seed))
    return {"accuracy": measure(judge.eval(), test)["one_order"]}


def adapt_r2(setup: Setup, unit: Unit, given: PairSet, folder: Path) -> dict[str, float]:
    """Human rationales, or the judge's own where they end in the label."""
    core, seed = setup.core.model_copy(update={"tasks": setup.new}), unit.seed
    judge = new_writer(core.shape, seed)
    if unit.arm != R2_SCRATCH:
        begin_from(judge, Unit(PREPARED, R2, seed).weights(folder))
    judge.eval()
    share = 1.0
    if len(given):
        rows = Rows.true(both_orders(given))
        if unit.arm == R2_LABELS:
            rows = agreeing(judge, given, setup.samples, seed)
            share = len(rows) / (2 * len(given))
        if len(rows):
            learn(judge, rows, setup.adapting, derived_seed("adapt", seed))
    return {**measured(judge, core, seed), "used": share}


def agreeing(judge: Writer, given: PairSet, samples: int, seed: int) -> Rows:
    """Of each pair in each order, the first sampled rationale that ends in its label, if one does."""
    cases = both_orders(given)
    text = own_rationales(cast_votes(judge, cases, samples, "own", seed), cases.label)
    found = verdicts(text) == cases.label
    return Rows.of(cases.prompt[found], text[found])
