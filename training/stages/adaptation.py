"""How many pairs of a new domain does a judge need? `adapt` at several sizes, one after the other, and their curve.

Each size starts from the recipe's checkpoint and draws its pairs by the recipe's seed, so that the smaller sets are
parts of the larger (arXiv 2506.14175 has 0, 1k, 3k, 5k, 7k and 10k). Every size is a run and a checkpoint of its own;
what they say of the held-out pairs becomes one table and one picture.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from service.manifest import Manifest
from training.configs import AdaptRecipe
from training.data.pairs import DataError, Pair, read_pairs
from training.evaluation.adaptation import Point, write_curve
from training.evaluation.statistics import clustered_interval
from training.stages.datasets import evaluation_pairs
from training.stages.finetune import finetune
from training.stages.run import is_main_process

log = logging.getLogger(__name__)


def adapt_to_sizes(recipe: AdaptRecipe, sizes: Sequence[int], *, resume: bool = False) -> list[Point]:
    """Train each size, then write ``curve.json``, ``.md`` and ``.png`` beside the runs.

    ``resume``: sizes that are finished are not trained again, one that was interrupted goes on. Raises `DataError` for
    no held-out pairs and for more pairs than there are, before anything is trained.
    """
    if not recipe.data.evaluation:
        raise DataError("A curve needs held-out pairs: give data.evaluation.")
    if min(sizes) < 0:
        raise DataError(f"{min(sizes)} pairs cannot be trained on; sizes are 0 or more.")
    there = sum(1 for path in recipe.data.train for _ in read_pairs(Path(path)))
    if (most := max(sizes)) > there:
        raise DataError(f"{most:,} pairs are asked for, data.train holds {there:,}; ask for fewer, or add files.")
    wanted = [at_size(recipe, size) for size in sorted(set(sizes))]
    for one in wanted:
        if resume and _is_finished(one):
            log.info("%s is finished.", one.version)
            continue
        runs = one.run_directory
        finetune(one, resume=resume and runs.is_dir() and get_last_checkpoint(str(runs)) is not None)
    if not is_main_process():
        return []
    held_out = evaluation_pairs(recipe.data, recipe.evaluation.limit)
    points = [_point(one, held_out) for one in wanted]
    write_curve(points, recipe.run_directory)
    return points


def at_size(recipe: AdaptRecipe, size: int) -> AdaptRecipe:
    """The recipe for one point of the curve."""
    directory = str(Path(recipe.output.directory) / str(size))
    return recipe.model_copy(
        update={
            "version": f"{recipe.version}-{size}",
            "data": recipe.data.model_copy(update={"limit": size}),
            "output": recipe.output.model_copy(update={"directory": directory}),
        }
    )


def _is_finished(recipe: AdaptRecipe) -> bool:
    manifest = Manifest.load(recipe.output.directory) if Path(recipe.output.directory).is_dir() else None
    return manifest is not None and manifest.version == recipe.version and _readings(recipe).is_file()


def _readings(recipe: AdaptRecipe) -> Path:
    return recipe.run_directory / "readings.jsonl"


def _point(recipe: AdaptRecipe, pairs: Sequence[Pair]) -> Point:
    """Intervals are clustered by prompt. An exact tie is not right."""
    readings = [json.loads(line) for line in _readings(recipe).read_text("utf-8").splitlines()]
    right = [
        float(r["p_first"] != 0.5 and (r["p_first"] > 0.5) == (pair.label == "a"))
        for r, pair in zip(readings, pairs, strict=True)
    ]
    prompts = [pair.group or "\x1f".join(m.content for m in pair.prompt.messages) for pair in pairs]
    final = json.loads((recipe.run_directory / "final.json").read_text("utf-8"))
    size = recipe.data.limit or 0
    accuracy = clustered_interval(right, prompts)
    return Point(size, accuracy, final["flip_rate"], final["ece"], final["loss"], recipe.output.directory)
