"""What do several sampled rationales add to the greedy one, and what do they cost? (GRAM-R2, arXiv 2509.02492.)

One distilled judge a seed; every pair in both orders. ``vote-k`` is the majority of the first k of the same 16 sampled
rationales, an order at a time; "both/" pools the two orders: 2 k rationales, or the two greedy ones. Voting stops early
where the remaining votes cannot change the majority: "tokens_saved" is what is then not written, "same" that the
answer is the one all votes give.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from training.studies.grid import Unit
from training.studies.judges import LABEL_A
from training.studies.reasoning.core import (
    DISTILLED,
    FULL,
    MICRO,
    SMOKE,
    Core,
    begin_distilled,
    distilled_units,
    keep_distilled,
    pairs_of,
)
from training.studies.reasoning.rationales import PAD, Floats, displayed
from training.studies.reasoning.voting import (
    Ballot,
    cast_votes,
    greedy_vote,
    majority,
    needed_votes,
    probability_of_a,
    swapped,
)
from training.studies.tasks import Integers

GREEDY = "greedy"


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    votes: tuple[int, ...] = (1, 4, 16)
    temperatures: tuple[float, ...] = (0.75, 1.0)


SIZES: dict[str, Setup] = {
    "micro": Setup(seeds=2, core=MICRO, votes=(1, 4)),
    "smoke": Setup(seeds=2, core=SMOKE, temperatures=(1.0,)),
    "full": Setup(seeds=5, core=FULL),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1})


def arm(votes: int) -> str:
    """The name of so many votes."""
    return f"vote-{votes}"


def point(temperature: float) -> str:
    """The name of a sampling temperature."""
    return f"temperature-{temperature:g}"


def phases(setup: Setup) -> list[list[Unit]]:
    """The judges, then the greedy rationale and the votes."""
    seeds = range(setup.seeds)
    greedy = [Unit(GREEDY, "greedy", seed) for seed in seeds]
    votes = [Unit(arm(k), point(t), seed) for seed in seeds for t in setup.temperatures for k in setup.votes]
    return [distilled_units(setup.seeds), greedy + votes]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    if unit.arm == DISTILLED:
        return keep_distilled(unit, core, folder)
    judge = begin_distilled(core, seed, folder)
    pairs = pairs_of(core, "test", core.test_pairs, seed, test=True)
    orders = [displayed(pairs, True), displayed(pairs, False)]
    if unit.arm == GREEDY:
        return counted(*(greedy_vote(judge, cases) for cases in orders))
    count = next(k for k in setup.votes if arm(k) == unit.arm)
    temperature = next(t for t in setup.temperatures if point(t) == unit.point)
    ballots = [
        cast_votes(judge, cases, count, "votes", place, seed, temperature=temperature)
        for place, cases in enumerate(orders)
    ]
    return counted(*ballots)


def counted(first: Ballot, second: Ballot) -> dict[str, float]:
    """Of the votes on pairs whose better response is shown first, and second. A is right in one, B in the other.

    ``agreement``: the mean share of a pair's votes that the majority has; ``consistency``: pairs whose two orders name
    the same response; ``stop_tokens``: tokens written when voting stops early, ``tokens``: when it does not.
    """
    right = [LABEL_A, int(swapped(np.array([LABEL_A]))[0])]
    chosen = [majority(ballot.verdicts, probability_of_a(ballot)) for ballot in (first, second)]
    pooled = np.concatenate([first.verdicts, swapped(second.verdicts)])
    p_a = np.concatenate([probability_of_a(first), 1 - probability_of_a(second)])
    stops = [stopped(ballot) for ballot in (first, second)]
    written, spent = first.lengths.sum() + second.lengths.sum(), sum(tokens for tokens, _ in stops)
    return {
        "accuracy": float(np.mean([c == letter for c, letter in zip(chosen, right, strict=True)])),
        "both/accuracy": float(np.mean(majority(pooled, p_a) == LABEL_A)),
        "agreement": float(np.mean([(b.verdicts == c).mean() for b, c in zip((first, second), chosen, strict=True)])),
        "consistency": float(np.mean((chosen[0] == swapped(chosen[1])) & (chosen[0] != PAD))),
        "invalid": float(np.mean([ballot.verdicts == PAD for ballot in (first, second)])),
        "tokens": float(written) / (2 * len(chosen[0])),
        "tokens_saved": 1.0 - float(spent) / float(written),
        "same": float(np.mean([same for _, same in stops])),
    }


def stopped(ballot: Ballot) -> tuple[int, float]:
    """Tokens written in all when voting stops early, and the share of pairs whose answer is that of all votes."""
    needed = needed_votes(ballot.verdicts)
    cast = np.arange(len(ballot.verdicts))[:, None] < needed
    p_a: Floats = np.where(cast, probability_of_a(ballot), 0.5)
    early: Integers = majority(np.where(cast, ballot.verdicts, PAD), p_a)
    same = early == majority(ballot.verdicts, probability_of_a(ballot))
    return int((ballot.lengths * cast).sum()), float(same.mean())
