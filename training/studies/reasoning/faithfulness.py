"""Are the rationales of better judges better? Facts that are true, verdicts that follow from the facts stated.

Four judges, all from one distilled beginning: GRAM-R2's self-training (`selftrain`, arm ``both``), RM-R1's GRPO at its
best checkpoint and at its last, and more distillation in as many updates. Outcome rewards look at the verdict alone, so
accuracy may rise while the rationale that is given for it gets worse.

    true       rationales without a false fact          tokens     their true facts
    follows    verdicts that the stated checks add up to, of those written
    unfounded  right verdicts behind a rationale with a false fact
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.studies.backbone import derived_seed
from training.studies.grid import Unit
from training.studies.reasoning import rlvr, selftrain
from training.studies.reasoning.core import (
    DISTILLED,
    FULL,
    MICRO,
    SMOKE,
    Core,
    begin_distilled,
    distilled_units,
    keep_distilled,
    measured,
)
from training.studies.reasoning.grpo import Reinforcement
from training.studies.reasoning.selftrain import PROVER, Rounds
from training.studies.reasoning.writers import Rows, learn

SELFTRAINED, RLVR, MORE = "selftrained", "rlvr", "more"
ARMS = (SELFTRAINED, RLVR, MORE)
POINT = "after"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    rounds: Rounds
    reinforcement: Reinforcement

    @property
    def as_rlvr(self) -> rlvr.Setup:
        """The same beginning and reinforcement as a setup of that study."""
        return rlvr.Setup(seeds=self.seeds, core=self.core, reinforcement=self.reinforcement)


SIZES: dict[str, Setup] = {
    "micro": Setup(
        seeds=2,
        core=MICRO,
        rounds=selftrain.MICRO_ROUNDS,
        reinforcement=Reinforcement(steps=2, prompts=4, group=2, look_every=1),
    ),
    "smoke": Setup(
        seeds=2,
        core=SMOKE,
        rounds=selftrain.SMOKE_ROUNDS,
        reinforcement=Reinforcement(steps=20, look_every=10),
    ),
    "full": Setup(seeds=5, core=FULL, rounds=selftrain.FULL_ROUNDS, reinforcement=Reinforcement(steps=200)),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1})


def phases(setup: Setup) -> list[list[Unit]]:
    """The first judge and the prover, then what became of the judge."""
    seeds = range(setup.seeds)
    first = [*distilled_units(setup.seeds), *(Unit(PROVER, "start", seed) for seed in seeds)]
    return [first, [Unit(arm, POINT, seed) for seed in seeds for arm in ARMS]]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    if unit.arm == DISTILLED:
        return keep_distilled(unit, core, folder)
    if unit.arm == PROVER:
        return selftrain.keep_prover(unit, core, setup.rounds, folder)
    judge = begin_distilled(core, seed, folder)
    if unit.arm == SELFTRAINED:
        prover = selftrain.prover_of(core, seed, folder)
        return selftrain.self_train(judge, prover, core, setup.rounds, selftrain.BOTH, seed)
    if unit.arm == RLVR:
        return rlvr.rewarded(judge, setup.as_rlvr, seed)
    as_rlvr = setup.as_rlvr
    learn(judge, Rows.true(rlvr.budget(as_rlvr, seed)), rlvr.continued(as_rlvr), derived_seed("more", seed))
    return measured(judge, core, seed)
