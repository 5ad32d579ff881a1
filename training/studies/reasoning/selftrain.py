"""Does self-training make a judge better than its labels? (GRAM-R2, arXiv 2509.02492, section 3.)

A judge and a prover learn the same few human rationales. Then rounds: the judge labels pairs that have no label, some
are dropped, rationales are written for the others, and the judge goes on from where it is on everything so far:

    labelled   no unlabelled pairs: as many steps on the human rationales (the control)
    once       the same, begun anew: all those steps in one schedule
    none       one greedy verdict a pair, all kept; the prover writes the rationale
    vote       the majority of sampled verdicts in both orders, all kept
    threshold  one greedy verdict, kept where the judge was sure of it
    both       the majority, kept where the judge was sure of it: the paper's rounds
    self       as both, but the rationale is one of the judge's own that voted for the label
    oracle     the true label, all kept: what perfect labels would give with this prover

Published rounds begin from the backbone again; these continue, which is a third of the steps. Each arm ends with the
same steps on the human rationales, as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from training.studies.backbone import begin_from, derived_seed, random_for, save_weights
from training.studies.fitting import Plan
from training.studies.grid import Unit
from training.studies.judges import LABEL_A
from training.studies.reasoning.core import (
    DISTILLED,
    FULL,
    MICRO,
    SMOKE,
    Core,
    begin_distilled,
    distil,
    distilled_units,
    held_out,
    human,
    keep_distilled,
    measured,
    pairs_of,
)
from training.studies.reasoning.proving import prover_prompts, train_prover
from training.studies.reasoning.rationales import PAD, Cases, Floats, check, displayed, verdicts
from training.studies.reasoning.voting import Ballot, cast_votes, greedy_vote, majority, probability_of_a, swapped
from training.studies.reasoning.writers import Rows, Writer, learn, new_writer, write
from training.studies.tasks import Booleans, Integers

LABELLED, NONE, VOTE, THRESHOLD, BOTH, SELF, ORACLE = "labelled", "none", "vote", "threshold", "both", "self", "oracle"
ONCE = "once"
ARMS = (LABELLED, ONCE, NONE, VOTE, THRESHOLD, BOTH, SELF, ORACLE)
VOTING, FILTERED = (VOTE, BOTH, SELF), (THRESHOLD, BOTH, SELF)
PROVER, POINT = "prover", "rounds"


class Rounds(BaseModel):
    """The self-training after the first judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int = 3
    unlabelled: int = 2_000
    """Pairs a round, new ones each."""
    votes: int = 4
    """In each order."""
    threshold: float = 0.9
    """Least mean probability of the label; the paper leaves it open."""
    proving: Plan
    training: Plan
    """Each round."""
    closing: Plan
    """The last steps, on human rationales."""


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    rounds: Rounds
    arms: tuple[str, ...] = ARMS


MICRO_ROUNDS = Rounds(
    rounds=2,
    unlabelled=16,
    votes=2,
    proving=Plan(steps=2, batch=16),
    training=Plan(steps=2, batch=16, rate=0.5),
    closing=Plan(steps=1, batch=16, rate=0.25),
)
SMOKE_ROUNDS = Rounds(
    rounds=2,
    unlabelled=500,
    proving=Plan(steps=150, batch=32),
    training=Plan(steps=40, batch=32, rate=0.5),
    closing=Plan(steps=20, batch=32, rate=0.25),
)
FULL_ROUNDS = Rounds(
    proving=Plan(steps=1_200, batch=32),
    training=Plan(steps=150, batch=32, rate=0.5),
    closing=Plan(steps=50, batch=32, rate=0.25),
)
SIZES: dict[str, Setup] = {
    "micro": Setup(seeds=2, core=MICRO, rounds=MICRO_ROUNDS),
    "smoke": Setup(seeds=2, core=SMOKE, rounds=SMOKE_ROUNDS, arms=(LABELLED, NONE, BOTH, SELF)),
    "pilot": Setup(seeds=1, core=FULL, rounds=FULL_ROUNDS, arms=(LABELLED, ONCE, NONE, BOTH, ORACLE)),
    "full": Setup(seeds=5, core=FULL, rounds=FULL_ROUNDS),
}


def phases(setup: Setup) -> list[list[Unit]]:
    """The first judge and the prover, then every arm."""
    seeds = range(setup.seeds)
    first = [*distilled_units(setup.seeds), *(Unit(PROVER, "start", seed) for seed in seeds)]
    return [first, [Unit(arm, POINT, seed) for seed in seeds for arm in setup.arms]]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, rounds = setup.core, setup.rounds
    if unit.arm == PROVER:
        return keep_prover(unit, core, rounds, folder)
    if unit.arm == DISTILLED:
        return keep_distilled(unit, core, folder)
    if unit.arm == ONCE:
        steps = core.distilling.steps + rounds.rounds * rounds.training.steps + rounds.closing.steps
        plan = core.distilling.model_copy(update={"steps": steps})
        return measured(distil(core.model_copy(update={"distilling": plan}), unit.seed), core, unit.seed)
    judge = begin_distilled(core, unit.seed, folder)
    return self_train(judge, prover_of(core, unit.seed, folder), core, rounds, unit.arm, unit.seed)


def keep_prover(unit: Unit, core: Core, rounds: Rounds, folder: Path) -> dict[str, float]:
    """Train the prover, keep it, and say how good its greedy rationales for right labels are, beside a judge's."""
    prover = train_prover(human(core, unit.seed), core.shape, rounds.proving, unit.seed)
    save_weights(prover, unit.weights(folder))
    cases = held_out(core, unit.seed)
    written = write(prover, prover_prompts(cases.prompt, cases.label), core.tokens)
    return check(cases, written.text).means()


def prover_of(core: Core, seed: int, folder: Path) -> Writer:
    """The prover that was kept."""
    prover = new_writer(core.shape, seed)
    begin_from(prover, Unit(PROVER, "start", seed).weights(folder))
    prover.eval()
    return prover


def self_train(judge: Writer, prover: Writer, core: Core, rounds: Rounds, arm: str, seed: int) -> dict[str, float]:
    """All rounds of an arm; ``judge`` is changed. Measures of each round ("round-1/accuracy"), and of the end."""
    rows = Rows.true(human(core, seed))
    measures = measured(judge, core, seed, "round-0/")
    for number in range(1, rounds.rounds + 1):
        if arm != LABELLED:
            pairs = pairs_of(core, f"unlabelled-{number}", rounds.unlabelled, seed)
            first = random_for("shown", number, seed).random(len(pairs)) < 0.5
            labelled = label(judge, displayed(pairs, first), displayed(pairs, ~first), rounds, arm, (seed, number))
            made, facts = write_up(prover, labelled, arm)
            rows = rows.and_also(made)
            measures |= {f"round-{number}/{name}": value for name, value in facts.items()}
        learn(judge, rows, rounds.training, derived_seed("round", number, seed))
        measures |= measured(judge, core, seed, f"round-{number}/")
    learn(judge, Rows.true(human(core, seed)), rounds.closing, derived_seed("closing", seed))
    return measures | measured(judge, core, seed)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pseudo-labels of a round, [B] each."""

    cases: Cases
    label: Integers
    """`PAD` where the judge gave no verdict."""
    kept: Booleans
    ballot: Ballot | None
    """The judge's rationales in the order the cases are displayed in; none for true labels."""


def label(
    judge: Writer, cases: Cases, other_order: Cases, rounds: Rounds, arm: str, purpose: tuple[object, ...]
) -> Labelled:
    """The judge's labels for pairs, as the arm makes them."""
    if arm == ORACLE:
        return Labelled(cases, cases.label, np.ones(len(cases), bool), None)
    if arm in VOTING:
        ballot = cast_votes(judge, cases, rounds.votes, "as shown", *purpose)
        other = cast_votes(judge, other_order, rounds.votes, "swapped", *purpose)
        verdict = np.concatenate([ballot.verdicts, swapped(other.verdicts)])
        p_a = np.concatenate([probability_of_a(ballot), 1 - probability_of_a(other)])
    else:
        ballot = greedy_vote(judge, cases)
        verdict, p_a = ballot.verdicts, probability_of_a(ballot)
    chosen = majority(verdict, p_a)
    sure = confidence(chosen, p_a) >= rounds.threshold
    return Labelled(cases, chosen, (chosen != PAD) & (sure | (arm not in FILTERED)), ballot)


def confidence(chosen: Integers, p_a: Floats) -> Floats:
    """[B]: mean probability, over the rationales [V, B], of the label that was chosen."""
    mean: Floats = p_a.mean(axis=0)
    return np.where(chosen == LABEL_A, mean, 1 - mean)


def write_up(prover: Writer, labelled: Labelled, arm: str) -> tuple[Rows, dict[str, float]]:
    """Rationales for the labels that were kept, those that do not end in their label dropped; shares of them:

    ``kept`` of all pairs, ``precision``: labels that are right, ``synthesised_true``: rationales
    without a false fact, ``synthesised_tokens``: their true tokens.
    """
    rows = np.flatnonzero(labelled.kept)
    cases, label = labelled.cases.take(rows), labelled.label[rows]
    if arm == SELF and labelled.ballot is not None:
        text = own_rationales(Ballot(labelled.ballot.text[:, rows], labelled.ballot.confidence[:, rows]), label)
    else:
        text = write(prover, prover_prompts(cases.prompt, label), cases.text.shape[1]).text
    sound = verdicts(text) == label  # the one rule that can be broken here; the others are of free text
    cases, label, text = cases.take(sound), label[sound], text[sound]
    found = check(cases, text).means() if len(text) else {"accuracy": 0.0, "true": 0.0, "tokens": 0.0}
    return Rows.of(cases.prompt, text), {
        "kept": len(text) / len(labelled.kept),
        "precision": found["accuracy"],
        "synthesised_true": found["true"],
        "synthesised_tokens": found["tokens"],
    }


def own_rationales(ballot: Ballot, label: Integers) -> Integers:
    """[B, T]: of each pair the first vote for its label; `PAD` alone, which is dropped, where there is none."""
    agrees = ballot.verdicts == label
    text = ballot.text[agrees.argmax(axis=0), np.arange(len(label))]
    return np.where(agrees.any(axis=0)[:, None], text, PAD)
