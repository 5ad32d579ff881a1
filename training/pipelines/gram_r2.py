"""GRAM-R2 on the demo family: prover, two rounds of self-training, people's rationales last.

The backbone is the demo judge. Gold labels are known to the card, not to the run. Three sizes:

smoke   minutes. Of six tasks the backbone knows four and has never seen two (`NEW`), so its labels are good in one part
        and poor in the other: what self-training has to cope with. It shows that everything works together, not that
        self-training helps: that takes a control (steps_like) and several seeds.
tiny    every step of such a run, as short as it can be, on one task whose proofs are learned in no time.
demo    the shipped tasks in all their wordings: how the demo judge that reasons was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from training.data.demo_files import as_pair
from training.data.demo_tasks import TASKS, DemoPair, draw, rationale
from training.data.judgments import WrittenJudgment, write_judgments
from training.data.pairs import DataError, Pair, write_pairs
from training.selftrain.card import summary
from training.selftrain.directory import read_manifest
from training.selftrain.driver import selftrain
from training.selftrain.recipe import SelfTrainRecipe, load_selftrain

KNOWN, NEW = ("capitals", "opposites", "categories", "sorting"), ("copying", "reversing")
RECIPES = Path(__file__).parent.parent / "recipes" / "gram-r2"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of each file; ``unlabelled`` of all rounds together."""

    rationales: int
    labelled: int
    unlabelled: int
    evaluation: int
    tasks: tuple[str, ...] = (*KNOWN, *NEW)
    plain: bool = True
    """Bare questions and answers only: no greeting, lead-in, bold type."""


SIZES = {
    "tiny": Sizes(rationales=64, labelled=4, unlabelled=8, evaluation=2, tasks=("refusals",)),
    "smoke": Sizes(rationales=192, labelled=48, unlabelled=72, evaluation=36),
    "demo": Sizes(rationales=3600, labelled=600, unlabelled=1200, evaluation=180, tasks=tuple(TASKS), plain=False),
}


def run(size: str, directory: Path, seed: int) -> Path:
    """Do what is left to be done; returns the last judge's checkpoint. Raises what `selftrain` raises."""
    write_data(directory / "data", SIZES[size], seed)
    recipe = recipe_in(size, directory, seed)
    checkpoint = selftrain(recipe, resume=True)
    print("\n".join(summary(recipe, figures_of(recipe.run))))
    print(f"Judge: {checkpoint}\nCard:  {recipe.run / 'card.md'}")
    return checkpoint


def recipe_in(size: str, directory: Path, seed: int = 1) -> SelfTrainRecipe:
    """The recipe of that size, with its files and its run under ``directory``."""
    recipe = load_selftrain(RECIPES / f"{size}.toml")
    data = directory / "data"
    names = {"labelled": ("labelled",), "unlabelled": ("unlabelled",), "rationales": ("rationales",)}
    paths = {field: tuple(str(data / f"{name}.jsonl") for name in listed) for field, listed in names.items()}
    placed = recipe.data.model_copy(update={**paths, "evaluation": str(data / "dev.jsonl")})
    update = {
        "data": placed,
        "directory": str(directory / "run"),
        "backbone": str(files("service") / "demo"),
        "seed": seed,
    }
    return recipe.model_copy(update=update)


def write_data(home: Path, sizes: Sizes, seed: int) -> None:
    """The four files, the same bytes each time. No pair occurs in two of them; held-out content is in ``dev`` alone."""
    rng = Random(f"{seed}/pipeline")
    seen: set[DemoPair] = set()

    def drawn(count: int, what: str, held_out: bool = False) -> list[tuple[DemoPair, Pair]]:
        rows = [_new(rng, seen, sizes, i, held_out) for i in range(count)]
        return [(row, as_pair(row, f"{what}/{i}", rng.random() < 0.5)) for i, row in enumerate(rows)]

    def judged(row: DemoPair, pair: Pair) -> WrittenJudgment:
        order = rng.choice(("ab", "ba"))
        right_first = (pair.label == "a") == (order == "ab")
        return WrittenJudgment(pair, "ab" if order == "ab" else "ba", rationale(row, right_first))

    write_judgments(home / "rationales.jsonl", [judged(*row) for row in drawn(sizes.rationales, "people")])
    for name, count in (("labelled", sizes.labelled), ("unlabelled", sizes.unlabelled)):
        write_pairs(home / f"{name}.jsonl", (pair for _, pair in drawn(count, name)))
    write_pairs(home / "dev.jsonl", (pair for _, pair in drawn(sizes.evaluation, "dev", held_out=True)))


def _new(rng: Random, seen: set[DemoPair], sizes: Sizes, number: int, held_out: bool) -> DemoPair:
    task = sizes.tasks[number % len(sizes.tasks)]
    for _ in range(1000):
        pair = draw(task, rng, from_held_out=held_out, plain=sizes.plain)
        if pair not in seen:
            seen.add(pair)
            return pair
    raise DataError(f"Task {task} has no more pairs; ask for fewer.")


def figures_of(run: Path) -> dict[str, Mapping[str, Any]]:
    """What every step of a run reported."""
    return {name: step["figures"] for name, step in read_manifest(run)["steps"].items()}
