"""Does the published score pick better proofs? (GRAM-R2, arXiv 2509.02492: Score = - log p(z | s, l) / log p(z).)

A prover from few human rationales writes k candidates for each labelled pair; a policy keeps one; a fresh judge learns
what was kept:

    first       the first candidate: k = 1
    random      one of the k, at random
    likelihood  the most probable given pair and label
    ratio       the published score, which also asks how probable the text is without the pair
    oracle      the candidate with most true tokens: what any selection could bring
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from training.studies.backbone import begin_from, derived_seed, random_for, save_weights
from training.studies.fitting import Plan
from training.studies.grid import Unit
from training.studies.reasoning.core import FULL, MICRO, SMOKE, Core, human, in_random_order, measured, pairs_of
from training.studies.reasoning.proving import (
    log_likelihood,
    prover_prompts,
    ratio_score,
    train_prover,
    without_pair,
)
from training.studies.reasoning.rationales import Cases, Floats, check, verdicts
from training.studies.reasoning.writers import Rows, Writer, learn, new_writer, noise_for, write
from training.studies.tasks import Integers

FIRST, RANDOM, LIKELIHOOD, RATIO, ORACLE = "first", "random", "likelihood", "ratio", "oracle"
POLICIES = (FIRST, RANDOM, LIKELIHOOD, RATIO, ORACLE)
PROVER, POINT = "prover", "selected"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    """``core.rationales`` are the prover's; ``core.distilling`` is how the judge learns what was selected."""
    labelled: int = 2_000
    """Pairs with a label whose rationale the prover writes."""
    candidates: int = 8
    proving: Plan
    policies: tuple[str, ...] = POLICIES


SIZES: dict[str, Setup] = {
    "micro": Setup(seeds=2, core=MICRO, labelled=16, candidates=2, proving=Plan(steps=2, batch=16)),
    "smoke": Setup(
        seeds=2,
        core=SMOKE,
        labelled=500,
        candidates=4,
        proving=Plan(steps=150, batch=32),
        policies=(FIRST, LIKELIHOOD, RATIO),
    ),
    "full": Setup(seeds=5, core=FULL, proving=Plan(steps=700, batch=32)),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1, "policies": (FIRST, RATIO, ORACLE)})


def phases(setup: Setup) -> list[list[Unit]]:
    """The prover, then a judge for each policy."""
    seeds = range(setup.seeds)
    return [
        [Unit(PROVER, "start", seed) for seed in seeds],
        [Unit(policy, POINT, seed) for seed in seeds for policy in setup.policies],
    ]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    if unit.arm == PROVER:
        prover = train_prover(human(core, seed), core.shape, setup.proving, seed)
        save_weights(prover, unit.weights(folder))
        cases = in_random_order(pairs_of(core, "test", core.test_pairs, seed, test=True), "proofs", seed)
        return check(cases, write(prover, prover_prompts(cases.prompt, cases.label), core.tokens).text).means()
    prover = new_writer(core.shape, seed)
    begin_from(prover, Unit(PROVER, "start", seed).weights(folder))
    cases = in_random_order(pairs_of(core, "labelled", setup.labelled, seed), "labelled", seed)
    text = selected(prover.eval(), cases, unit.arm, setup.candidates, seed)
    kept = verdicts(text) == cases.label
    found = check(cases, text).means()
    judge = new_writer(core.shape, seed)
    learn(judge, Rows.of(cases.prompt[kept], text[kept]), core.distilling, derived_seed("selected", seed))
    return {
        "proofs/true": found["true"],
        "proofs/tokens": found["tokens"],
        "proofs/kept": float(kept.mean()),
        **measured(judge, core, seed),
    }


def selected(prover: Writer, cases: Cases, policy: str, candidates: int, seed: int) -> Integers:
    """[B, T]: one of the proofs that the prover writes for each case. Those with another label are never preferred."""
    prompts = prover_prompts(cases.prompt, cases.label)
    width = cases.text.shape[1]
    count = 1 if policy == FIRST else candidates
    texts = np.stack(
        [write(prover, prompts, width, noise_for(len(cases), width, "proof", seed, i)).text for i in range(count)]
    )
    scores = np.stack([scored(prover, cases, prompts, text, policy, seed, i) for i, text in enumerate(texts)])
    wrong = np.stack([verdicts(text) for text in texts]) != cases.label
    best = np.where(wrong, -np.inf, scores).argmax(axis=0)
    return np.asarray(texts[best, np.arange(len(cases))])


def scored(
    prover: Writer, cases: Cases, prompts: Integers, text: Integers, policy: str, seed: int, number: int
) -> Floats:
    """[B]: of candidates [B, T]; the highest is kept."""
    rows = Rows.of(prompts, text)
    if policy == LIKELIHOOD:
        return log_likelihood(prover, rows)
    if policy == RATIO:
        return ratio_score(log_likelihood(prover, rows), log_likelihood(prover, without_pair(rows)))
    if policy == ORACLE:
        return check(cases, text).tokens
    chance: Floats = random_for("policy", policy, seed, number).random(len(text))
    return chance
