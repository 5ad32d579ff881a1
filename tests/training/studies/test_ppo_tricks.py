"""The arms of the study of PPO's tricks: all combinations, and each what its name says."""

from __future__ import annotations

from training.rlhf.ppo import Options
from training.studies.comparisons import Table
from training.studies.grid import Result, Unit
from training.studies.ppo_tricks import POINT, SIZES, arms, options, phases
from training.studies.ppo_tricks_report import GOLD, report

FULL = SIZES["full"]


def test_sixteen_arms_of_three_seeds_begin_with_one_policy_a_seed() -> None:
    first, second = phases(FULL)
    assert len(first) == 3 and len(second) == 48 == len(set(second))
    assert arms()[0] == "RQGW" and arms()[-1] == "none" and len(set(arms())) == 16


def test_an_arm_has_what_its_name_says_and_differs_in_nothing_else() -> None:
    published = Options(seed=2, steps=32, value_only=8, evaluate_every=8)
    assert options("RQGW", FULL, 2) == published, "the command's defaults, but for the length of a run"
    bare = options("none", FULL, 2)
    assert (bare.own_reference, bare.window, bare.gamma, bare.value_only) == (False, None, 1.0, 0)
    assert len({options(arm, FULL, 0) for arm in arms()}) == 16
    alone = Options(seed=2, own_reference=False, window=None, steps=32, value_only=0, evaluate_every=8)
    assert options("G", FULL, 2) == alone


def test_the_effect_of_a_trick_is_the_mean_over_all_other_combinations() -> None:
    """Marks made of known parts: 0.1 for the queue, 0.02 for gamma, the seed's own level, nothing for the others."""
    results = [
        Result(
            Unit(arm, POINT, seed),
            {GOLD: 0.5 + seed / 100 + 0.1 * ("Q" in arm) + 0.02 * ("G" in arm), "old/gold_sampled": 0.3},
            1.0,
        )
        for arm in arms()
        for seed in range(3)
    ]
    said = report(FULL, Table(results))
    effects = said.families["Right answers, sampled: arms with a trick minus the same arms without it"]
    assert [round(effect.difference, 6) for effect in effects] == [0.0, 0.1, 0.02, 0.0]
    assert [effect.seeds for effect in effects] == [3] * 4
