"""Which of GRAM's four tricks does PPO need? (arXiv 2506.14175: reference, reward queue, gamma, value-only steps.)

Every combination of the four: the reference is the policy's own greedy response or the first policy's, rewards are
standardized by a queue or bare, gamma is 10 or 1, and the value model learns alone for a quarter of the run or never.
The arms of a seed begin with one supervised policy and meet the same prompts. Each run has a service of its own in its
process and asks it over HTTP, as any trainer does: queues of two runs cannot meet, a killed run leaves nothing behind,
and its processor time holds the judge's.

Runs are of one length; where the judge's curve and the checker's part, the last policy shows it and the chosen one
should not.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.rlhf import ppo, runs
from training.rlhf.records import read_metrics
from training.studies.grid import Unit

POLICY, POINT = "policy", "full"
TRICKS = {"R": "own reference", "Q": "queue", "G": "gamma 10", "W": "value-only steps"}
"""Letters of an arm's name: those it has; "none" has none of them."""


def arms() -> tuple[str, ...]:
    """All sixteen, the published recipe first and none of the tricks last."""
    chosen = [
        "".join(letter for letter, on in zip(TRICKS, row, strict=True) if on) for row in product((1, 0), repeat=4)
    ]
    return tuple(name or "none" for name in chosen)


class Setup(BaseModel):
    """Everything the results depend on, but the code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    engine: str = "transformers"
    supervised_steps: int = 160
    steps: int = 200
    batch: int = 64
    minibatch: int = 16
    epochs: int = 4
    window: int = 1_000
    gamma: float = 10.0
    value_only: int = 30
    evaluate_every: int = 20
    validation: int = 96
    test: int = 256
    arms: tuple[str, ...] = arms()


SIZES: dict[str, Setup] = {
    "micro": Setup(
        seeds=2,
        engine="fake",
        supervised_steps=1,
        steps=2,
        batch=4,
        minibatch=2,
        epochs=1,
        value_only=1,
        evaluate_every=2,
        validation=4,
        test=4,
        arms=("RQGW", "none"),
    ),
    "smoke": Setup(
        seeds=1,
        supervised_steps=40,
        steps=8,
        value_only=2,
        evaluate_every=4,
        validation=24,
        test=48,
        arms=("RQGW", "none"),
    ),
    # Not the paper's length, but four core-hours: ten steps of updates are enough to see a policy rise (docs/rlhf.md).
    "full": Setup(seeds=3, steps=32, value_only=8, evaluate_every=8, validation=64, test=128),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1, "arms": ("RQGW", "none")})


def phases(setup: Setup) -> list[list[Unit]]:
    """The supervised policies, then every arm from its seed's."""
    seeds = range(setup.seeds)
    return [
        [Unit(POLICY, POINT, seed) for seed in seeds],
        [Unit(arm, POINT, seed) for seed in seeds for arm in setup.arms],
    ]


def options(arm: str, setup: Setup, seed: int) -> ppo.Options:
    """PPO with the tricks that an arm is named by."""
    return ppo.Options(
        own_reference="R" in arm,
        window=setup.window if "Q" in arm else None,
        gamma=setup.gamma if "G" in arm else 1.0,
        value_only=setup.value_only if "W" in arm else 0,
        steps=setup.steps,
        batch=setup.batch,
        minibatch=setup.minibatch,
        epochs=setup.epochs,
        evaluate_every=setup.evaluate_every,
        seed=seed,
    )


def policy_directory(folder: Path, seed: int) -> Path:
    """Where a seed's supervised policy lies."""
    return folder / POLICY / POINT / f"seed-{seed}"


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run. Its figures step by step stay beside its result, for the pictures."""
    beginning = policy_directory(folder, unit.seed)
    if unit.arm == POLICY:
        if beginning.exists():  # of a run that was cut off after writing it
            return runs.right_answers(beginning, setup.test)
        return runs.sft(beginning, seed=unit.seed, steps=setup.supervised_steps, test=setup.test)
    output = unit.file(folder).with_suffix("")
    place = runs.Place(beginning, output, None, setup.engine, setup.validation, setup.test)
    report = runs.train_ppo(place, options(unit.arm, setup, unit.seed))
    return {
        "chosen_step": float(report["chosen_step"]),
        **{f"{which}/{name}": value for which, marks in report["test"].items() for name, value in marks.items()},
        **_curve(output),
    }


def _curve(output: Path) -> dict[str, float]:
    """The validation marks by step, as measures: "curve/00020/kl"."""
    return {
        f"curve/{int(row['step']):05d}/{name.removeprefix('validation/')}": value
        for row in read_metrics(output)
        for name, value in row.items()
        if name.startswith("validation/")
    }


def curve_steps(setup: Setup) -> list[int]:
    """Steps that have marks."""
    return sorted({*range(0, setup.steps + 1, setup.evaluate_every), setup.steps})
