"""How much rationale does a right verdict need? (RM-R1, arXiv 2505.02387, figure on the inference budget.)

A budget is a number of tokens before the verdict, in steps of a position (three tokens each). Three ways to keep it:

    cut      a judge taught whole rationales; at the budget it must name A or B
    short    a judge taught rationales of this length: the first positions only, then the verdict
    any      one judge taught rationales of every length, cut as the first
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from training.studies.backbone import begin_from, derived_seed, random_for, save_weights
from training.studies.fitting import Plan
from training.studies.grid import Unit
from training.studies.judges import LABEL_A, LABEL_B
from training.studies.reasoning.core import FULL, MICRO, SMOKE, Core, measured, pairs_of
from training.studies.reasoning.rationales import PAD, Cases, both_orders
from training.studies.reasoning.writers import Rows, Writer, learn, new_writer, write
from training.studies.tasks import Integers

CUT, SHORT, ANY = "cut", "short", "any"
ARMS = (CUT, SHORT, ANY)
WHOLE, START = "taught", "start"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core

    @property
    def budgets(self) -> tuple[int, ...]:
        """Tokens of rationale: none, one position's, ..., all."""
        return tuple(range(0, self.core.tokens, 3))


SIZES: dict[str, Setup] = {
    "micro": Setup(seeds=2, core=MICRO),
    "smoke": Setup(seeds=2, core=SMOKE.model_copy(update={"distilling": Plan(steps=100, batch=32)})),
    "full": Setup(seeds=5, core=FULL.model_copy(update={"rationales": 1_000, "distilling": Plan(steps=400, batch=64)})),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1})


def point(budget: int) -> str:
    """The name of a number of tokens."""
    return f"tokens-{budget}"


def phases(setup: Setup) -> list[list[Unit]]:
    """The two judges that are cut, then every way at every budget."""
    seeds = range(setup.seeds)
    return [
        [Unit(WHOLE, way, seed) for seed in seeds for way in (CUT, ANY)],
        [Unit(arm, point(budget), seed) for seed in seeds for arm in ARMS for budget in setup.budgets],
    ]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    judge = new_writer(core.shape, seed)
    pairs = pairs_of(core, "human", core.rationales, seed)
    if unit.arm == WHOLE:
        rows = of_any_length(core, seed, setup.budgets) if unit.point == ANY else Rows.true(both_orders(pairs))
        learn(judge, rows, core.distilling, derived_seed("distil", seed))
        save_weights(judge, unit.weights(folder))
        return measured(judge, core, seed)
    budget = next(tokens for tokens in setup.budgets if point(tokens) == unit.point)
    test = both_orders(pairs_of(core, "test", core.test_pairs, seed, test=True), budget)
    if unit.arm == SHORT:
        learn(judge, Rows.true(both_orders(pairs, budget)), core.distilling, derived_seed("distil", seed))
    else:
        begin_from(judge, Unit(WHOLE, unit.arm, seed).weights(folder))
        judge.eval()
    return {"accuracy": float(np.mean(forced(judge, test, budget) == test.label))}


def of_any_length(core: Core, seed: int, budgets: tuple[int, ...]) -> Rows:
    """Each human rationale, cut after a random number of positions; behind it stands the right verdict all the same."""
    pairs = pairs_of(core, "human", core.rationales, seed)
    whole = both_orders(pairs)
    text = np.full_like(whole.text, PAD)
    chosen = random_for("lengths", seed).choice(budgets, len(whole))
    for budget in budgets:
        rows = chosen == budget
        text[rows, :budget] = whole.text[rows, :budget]
        text[rows, budget] = whole.label[rows]
    return Rows.of(whole.prompt, text)


def forced(judge: Writer, cases: Cases, budget: int) -> Integers:
    """[B]: A or B, whichever is likelier after ``budget`` greedy tokens; an earlier verdict of its own stands."""
    written = write(judge, cases.prompt, budget).text if budget else np.zeros((len(cases), 0), np.int64)
    own = (written == LABEL_A) | (written == LABEL_B)
    rows = Rows.of(cases.prompt, np.concatenate([written, np.full((len(cases), 1), LABEL_A)], axis=1))
    with torch.inference_mode():
        logits = judge.logits(rows.prompt, rows.text)[:, -1]
    chosen = np.where((logits[:, LABEL_A] >= logits[:, LABEL_B]).numpy(), LABEL_A, LABEL_B)
    if not budget:
        return chosen
    return np.where(own.any(axis=1), written[np.arange(len(cases)), own.argmax(axis=1)], chosen)
