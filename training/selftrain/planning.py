"""What a self-training run will need before it is started: memory and hours of every training step, hours of
writing, and of reading what was written.

Training is `training.estimate`'s arithmetic, and a likelihood its forward pass: no cache saves any of it. Writing is
tokens over a rate: decoding is bound by memory bandwidth, so the rate falls as the model grows. The one rate taken as
known is an assumption of this file, not a measurement: 2,300 tokens a second for each A800 with a model of 8 B
parameters, sampled in large batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.architectures import Architecture
from training.data.pairs import DataError
from training.estimate import GB, GPUS, Memory, memory, time
from training.planning import Machine, plan, shape_of
from training.presets import Expected
from training.selftrain.recipe import ExpectSection, SelfTrainRecipe, Step
from training.writing_configs import ProveRecipe, ReasonRecipe

RATE, RATE_PARAMETERS = 2300.0, 8e9
SOMEWHERE = Path("x")


@dataclass(frozen=True, slots=True)
class Part:
    """A step: hours, and for a training step memory on each GPU."""

    name: str
    what: str
    hours: float
    memory: Memory | None = None


def parts(recipe: SelfTrainRecipe, machine: Machine) -> list[Part]:
    """Every step of the run, in order. Raises `DataError` for a recipe without ``expect``, or an unknown backbone."""
    expect = recipe.expect
    if expect is None:
        raise DataError("The recipe has no table [expect]: say how many pairs and tokens there will be.")
    prover = recipe.prove_recipe(SOMEWHERE)
    judges = {step: recipe.reason_recipe(step, step, SOMEWHERE, recipe.backbone, (SOMEWHERE,)) for step in _STEPS}
    prover_shape, shape = shape_of(prover.model), shape_of(judges["start"].model)
    both = 2 if recipe.proofs.orders == "both" else 1
    kept = round(expect.unlabelled_a_round * expect.kept)
    found = [_training("prover", prover, prover_shape, expect.rationales, expect, machine)] if not recipe.prover else []
    found += _proving("labelled pairs", recipe, prover_shape, expect.labelled, expect, machine)
    found.append(_training("start", judges["start"], shape, both * expect.labelled, expect, machine))
    for number in range(1, recipe.rounds + 1):
        found.append(_voting(f"round {number}: votes", recipe, shape, expect, machine))
        found += _proving(f"round {number}", recipe, prover_shape, kept, expect, machine)
        rows = both * (expect.labelled + number * kept)
        found.append(_training(f"round {number}", judges["round"], shape, rows, expect, machine))
    found.append(_training("final", judges["final"], shape, expect.rationales, expect, machine))
    return found


_STEPS: tuple[Step, ...] = ("start", "round", "final")


def lines(recipe: SelfTrainRecipe, machine: Machine) -> Iterator[str]:
    """The plan for people."""
    steps = parts(recipe, machine)
    yield f"{machine.gpus} x {machine.gpu}, {machine.sharding}"
    for part in steps:
        need = "" if part.memory is None else f"{part.memory.total / GB:5.1f} GB a GPU"
        yield f"  {part.name:<24}{part.hours:7.1f} h  {need:<16}{part.what}".rstrip()
    hours = sum(part.hours for part in steps)
    cost = hours * machine.gpus * machine.price
    yield f"  {'together':<24}{hours:7.1f} h  ${cost:,.0f} at ${machine.price:g} a GPU-hour"


def _training(
    name: str,
    recipe: ProveRecipe | ReasonRecipe,
    shape: Architecture,
    rows: int,
    expect: ExpectSection,
    machine: Machine,
) -> Part:
    run = plan(recipe, shape, Expected(pairs=rows, mean_tokens=expect.row_tokens), machine)
    spent = time(run)
    return Part(name, f"{rows:,} rows, {spent.tokens / 1e9:.2f} B tokens", spent.hours, memory(run))


def _proving(
    name: str, recipe: SelfTrainRecipe, shape: Architecture, pairs: int, expect: ExpectSection, machine: Machine
) -> Iterator[Part]:
    """Proofs, and the two likelihoods of each where they decide which is kept."""
    section = recipe.proofs
    claims = pairs * (2 if section.orders == "both" else 1)
    texts = claims * section.candidates
    yield _writing(f"{name}: proofs", texts, texts * expect.text_tokens, shape, machine)
    if section.policy in ("ratio", "likelihood"):
        tokens = texts * (expect.row_tokens + expect.text_tokens)
        yield _reading(f"{name}: scores", 2 * texts, tokens, shape, expect, machine)


def _voting(name: str, recipe: SelfTrainRecipe, shape: Architecture, expect: ExpectSection, machine: Machine) -> Part:
    texts = 0 if recipe.labels.source == "gold" else expect.unlabelled_a_round * 2 * recipe.labels.votes
    return _writing(name, texts, texts * expect.text_tokens, shape, machine)


def _writing(name: str, texts: int, tokens: float, shape: Architecture, machine: Machine) -> Part:
    rate = RATE * RATE_PARAMETERS / shape.parameter_count * machine.gpus
    return Part(name, f"{texts:,} texts, {tokens / 1e9:.2f} B tokens written", tokens / rate / 3600)


def _reading(name: str, texts: int, tokens: int, shape: Architecture, expect: ExpectSection, machine: Machine) -> Part:
    flop = shape.forward_flop(expect.row_tokens, with_head=True)
    speed = machine.gpus * GPUS[machine.gpu].peak_flops * machine.utilisation / flop
    return Part(name, f"{texts:,} texts, {tokens / 1e9:.2f} B tokens read", tokens / speed / 3600)
