"""What do verifiable rewards add to distillation? (RM-R1, arXiv 2505.02387, sections 3.2 and 3.3, tables 3 and 4.)

The first judge is distilled from human rationales; then there are labels, one for each of new pairs:

    distilled  nothing more: the beginning
    rlvr       GRPO on the labels, from the first judge; the best of its validations is kept
    cold       GRPO on the labels, from a judge that has only seen what a rationale looks like
    labels     no rationale at all: verdicts learned from all labels, those of the first judge's pairs too
    longer     no labels: as many updates more on the human rationales (steps-matched control)
    more       as many updates on true rationales of the labelled pairs: labels and rationales cost the same here

The updates of ``longer`` and ``more`` have as many texts as GRPO samples. GRPO sees each pair
once. A later checkpoint need not be a better one: "last/" stands beside what validation chose.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.studies.backbone import derived_seed, random_for, save_weights
from training.studies.fitting import Plan
from training.studies.grid import Unit
from training.studies.reasoning.core import (
    DISTILLED,
    FULL,
    MICRO,
    SMOKE,
    Core,
    begin_distilled,
    distilled_units,
    greedy_accuracy,
    human,
    in_random_order,
    keep_distilled,
    measured,
    pairs_of,
)
from training.studies.reasoning.grpo import Reinforcement, reinforce
from training.studies.reasoning.rationales import Cases, both_orders, check, displayed
from training.studies.reasoning.writers import Rows, Writer, learn, new_writer, write

RLVR, COLD, LABELS, LONGER, MORE = "rlvr", "cold", "labels", "longer", "more"
ARMS = (RLVR, COLD, LABELS, LONGER, MORE)
POINT = "after"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    reinforcement: Reinforcement
    validation_pairs: int = 300
    more_rate: float = 0.5
    """Learning rates of continued distillation, relative to the first."""
    arms: tuple[str, ...] = ARMS


SIZES: dict[str, Setup] = {
    "micro": Setup(
        seeds=2,
        core=MICRO,
        reinforcement=Reinforcement(steps=2, prompts=4, group=2, look_every=1),
        validation_pairs=10,
    ),
    "smoke": Setup(
        seeds=2,
        core=SMOKE,
        reinforcement=Reinforcement(steps=20, look_every=10),
        validation_pairs=100,
        arms=(RLVR, LABELS, MORE),
    ),
    "pilot": Setup(seeds=1, core=FULL, reinforcement=Reinforcement(steps=150), arms=(RLVR, LONGER, MORE)),
    "full": Setup(seeds=5, core=FULL, reinforcement=Reinforcement(steps=150)),
}


def phases(setup: Setup) -> list[list[Unit]]:
    """The first judge, then every arm."""
    return [
        distilled_units(setup.seeds),
        [Unit(arm, POINT, seed) for seed in range(setup.seeds) for arm in setup.arms],
    ]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    if unit.arm == DISTILLED:
        return keep_distilled(unit, core, folder)
    if unit.arm == LABELS:
        return labels_alone(setup, seed)
    if unit.arm == COLD:
        judge = only_the_form(core, seed)
        return {**measured(judge, core, seed, "before/"), **rewarded(judge, setup, seed)}
    judge = begin_distilled(core, seed, folder)
    if unit.arm == RLVR:
        return rewarded(judge, setup, seed)
    cases = human(core, seed) if unit.arm == LONGER else budget(setup, seed)
    learn(judge, Rows.true(cases), continued(setup), derived_seed("more", seed))
    return measured(judge, core, seed)


def budget(setup: Setup, seed: int) -> Cases:
    """The labelled pairs of reinforcement, each displayed once."""
    pairs = pairs_of(setup.core, "budget", setup.reinforcement.labels, seed)
    return in_random_order(pairs, "budget", seed)


def continued(setup: Setup) -> Plan:
    """As many updates, of as many texts, as reinforcement has."""
    plan = setup.reinforcement
    texts = plan.prompts * plan.group // plan.parts
    return Plan(steps=plan.steps * plan.parts, batch=texts, rate=setup.more_rate)


def rewarded(judge: Writer, setup: Setup, seed: int, save: Path | None = None) -> dict[str, float]:
    """GRPO from ``judge``; measures of the best checkpoint by validation, of the last ("last/") and of each look."""
    core, plan = setup.core, setup.reinforcement
    held = in_random_order(pairs_of(core, "validation", setup.validation_pairs, seed), "validation", seed)
    steps: dict[str, float] = measured(judge, core, seed, "step-0/")
    looks, weights = reinforce(
        judge,
        budget(setup, seed),
        plan,
        derived_seed("grpo", seed),
        lambda writer: greedy_accuracy(writer, held),
        lambda step, writer: steps.update(measured(writer, core, seed, f"step-{step}/")),
    )
    steps |= {f"step-{look.step}/reward": look.reward for look in looks[1:]}
    last = measured(judge, core, seed, "last/")
    judge.load_state_dict(weights)
    if save is not None:
        save_weights(judge, save)
    best = max(looks, key=lambda look: (look.accuracy, -look.step))
    return {**steps, **last, **measured(judge, core, seed), "best_step": float(best.step)}


def only_the_form(core: Core, seed: int) -> Writer:
    """A judge that has read true rationales of other pairs: it writes well-formed ones, at chance."""
    writer, cases = new_writer(core.shape, seed), human(core, seed)
    foreign = random_for("foreign", seed).permutation(len(cases))
    learn(writer, Rows.of(cases.prompt, cases.text[foreign]), core.distilling, derived_seed("form", seed))
    return writer


def labels_alone(setup: Setup, seed: int) -> dict[str, float]:
    """Verdicts without rationales, from every label there is; as many updates as first judge and continuation have."""
    core, judge = setup.core, new_writer(setup.core.shape, seed)
    first = both_orders(pairs_of(core, "human", core.rationales, seed), steps=0)
    pairs = pairs_of(core, "budget", setup.reinforcement.labels, seed)
    more = displayed(pairs, random_for("shown", "budget", seed).random(len(pairs)) < 0.5, steps=0)
    more_plan = continued(setup)
    plan = Plan(steps=core.distilling.steps + more_plan.steps, batch=more_plan.batch)
    learn(judge, Rows.true(first).and_also(Rows.true(more)), plan, derived_seed("labels", seed))
    cases = both_orders(pairs_of(core, "test", core.test_pairs, seed, test=True), steps=0)
    found = check(cases, write(judge, cases.prompt, 1).text).means()
    return {name: found[name] for name in ("accuracy", "invalid")}
