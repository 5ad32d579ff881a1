"""Recipes as people read them before they start one: the plan of a run, its memory sum, its hours and its price."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from training.architectures import Architecture, architectures
from training.configs import AdaptRecipe, FinetuneRecipe, ModelSection, RewardRecipe
from training.data.pairs import DataError
from training.estimate import GB, GPUS, Memory, Run, Sampling, Sharding, disk_bytes, memory, most_rows, time
from training.presets import Expected, NamedRecipe, toml_text
from training.recipe_files import AnyRecipe
from training.writing_configs import GrpoRecipe

GPUS_A_NODE = 8
PRICE = 1.5
"""US dollars for an hour of one GPU, where nobody says otherwise: an assumption, not an offer."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a recipe is to run, and what an hour of one GPU costs (US dollars)."""

    gpu: str = "A800-80GB"
    gpus: int = 8
    sharding: Sharding = "fsdp2"
    utilisation: float = 0.4
    price: float = PRICE


ENGINE = "writes while the update's own memory is free: the larger of the two counts"


def plan(recipe: AnyRecipe, shape: Architecture, expected: Expected, machine: Machine) -> Run:
    """What the estimator is asked. Raises `DataError` for what it has no arithmetic for, or a GPU it does not know."""
    if machine.gpu not in GPUS:
        raise DataError(f"There is no GPU {machine.gpu} in the table; known: {', '.join(GPUS)}.")
    if recipe.model.lora is not None:
        raise DataError("The estimate covers training of all weights; leave model.lora out.")
    if recipe.precision.compute != "bfloat16" or recipe.precision.weights != "float32":
        raise DataError("The estimate covers float32 weights and bfloat16 products; precision says otherwise.")
    recipe.batch.accumulation(machine.gpus)
    rows, epochs = _rows(recipe, expected)
    return Run(
        architecture=shape,
        gpu=GPUS[machine.gpu],
        gpus=machine.gpus,
        sharding=machine.sharding,
        rows=recipe.batch.rows_per_device * (2 if recipe.stage == "reward" else 1),
        row_tokens=_longest(recipe),
        mean_tokens=min(expected.mean_tokens, _longest(recipe)),
        samples=rows,
        epochs=epochs,
        checkpointing=recipe.model.gradient_checkpointing,
        logits="labels" if _reads_only(recipe) else "chunked",
        utilisation=machine.utilisation,
        sampling=_sampling(recipe, expected),
    )


def _longest(recipe: AnyRecipe) -> int:
    """Tokens of a row at most; what is sampled comes on top of its prompt."""
    return recipe.data.max_tokens + (recipe.rollout.max_tokens if isinstance(recipe, GrpoRecipe) else 0)


def _sampling(recipe: AnyRecipe, expected: Expected) -> Sampling | None:
    if not isinstance(recipe, GrpoRecipe):
        return None
    rollout = recipe.rollout
    texts = rollout.prompts * rollout.group
    written = min(expected.written_tokens or rollout.max_tokens, rollout.max_tokens)
    return Sampling(rollout.gpu_memory, rollout.tensor_parallel, texts, _longest(recipe), written)


def _reads_only(recipe: AnyRecipe) -> bool:
    """Does a step compute two logits or one reward a row, and no text?"""
    if isinstance(recipe, RewardRecipe):
        return recipe.objective.text_regularizer == "none"
    return isinstance(recipe, FinetuneRecipe | AdaptRecipe) and not recipe.objective.judgment_weight


def _rows(recipe: AnyRecipe, expected: Expected) -> tuple[int, float]:
    """Sequences of an epoch, and epochs; a schedule in steps is one epoch of what they hold. Pairs in both orders are
    two sequences, and so are the pairs of the reward stage."""
    if recipe.schedule.steps is not None:
        return recipe.schedule.steps * recipe.batch.rows * (2 if recipe.stage == "reward" else 1), 1.0
    group = recipe.rollout.group if isinstance(recipe, GrpoRecipe) else 1
    pairs = expected.pairs if recipe.data.limit is None else min(recipe.data.limit, expected.pairs)
    orders = 2 if recipe.stage == "reward" or recipe.data.swap == "both" else 1
    return pairs * orders * group, recipe.schedule.epochs


def shape_of(model: ModelSection) -> Architecture:
    """The backbone of a recipe file: a known hub id, or the config.json of a local checkpoint. Raises `DataError`."""
    for shape in architectures().values():
        if shape.hub == model.path:
            return shape
    path = Path(model.path) / "config.json"
    if not model.path or not path.is_file():
        known = ", ".join(shape.hub for shape in architectures().values())
        raise DataError(
            f"model.path = {model.path!r}: neither a known backbone ({known}) nor a directory with a config.json; "
            "name the backbone with --backbone."
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    fields = {key: config[key] for key in Architecture.model_fields if key in config}
    try:
        shape = Architecture.model_validate({**fields, "hub": model.path, "parameters": 1.0})
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise DataError(f"{path}: only LLaMA and Qwen3 shapes are known; {wrong} does not fit.") from error
    return shape.model_copy(update={"parameters": shape.parameter_count / 1e9})


def memory_sum(run: Run, need: Memory) -> str:
    """The arithmetic in one line: what 16 bytes a parameter come to on each GPU, and what a step adds."""
    billions = run.architecture.parameter_count / 1e9
    stay = ("weights", "gradients", "optimizer")
    parts = {name: value for name, value in need.parts.items() if name not in stay}
    more = " + ".join(f"{value / GB:.1f} {name}" for name, value in parts.items() if value >= 0.05 * GB)
    states = f"{billions:.2f} B parameters x 16 B = {16 * billions:.0f} GB"
    return f"{states}, {need.states / GB:.1f} a GPU; + {more} = {need.total / GB:.1f} GB"


def verdict(run: Run) -> str:
    """Whether it fits, and how many rows would."""
    most = most_rows(run)
    if most == 0:
        return "does NOT fit: not even one row; shard more, or use more or larger GPUs"
    fits = "fits" if run.rows <= most else f"does NOT fit with {run.rows} rows"
    return f"{fits}: up to {most} rows of {run.row_tokens} tokens a GPU"


def machine_for(named: NamedRecipe, machine: Machine) -> Machine:
    """The machine with as many GPUs as the recipe is planned for."""
    return replace(machine, gpus=named.gpus)


def header(named: NamedRecipe, machine: Machine, file: str) -> str:
    """The comment on top of a written recipe."""
    lines = [f"{named.name}: {named.preset.title}, {named.architecture.hub}.", f"Source:   {named.preset.source}"]
    if named.preset.name not in named.architecture.used_by:
        lines.append("          (the authors did not train this backbone; the settings are theirs)")
    how = f"{machine.sharding}, recomputation, bfloat16"
    lines += [f"Hardware: {machine.gpus} x {machine.gpu}, {how}", f"Launch:   {launch(named, machine, file)}"]
    if named.unset:
        lines += [
            f"Unset:    {', '.join(named.unset)}:",
            "          not stated by the source; give each with --set KEY=VALUE",
        ]
    else:
        lines += expectation(named, machine)
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def expectation(named: NamedRecipe, machine: Machine) -> list[str]:
    run = plan(named.recipe(), named.architecture, named.expected, machine)
    need, spent = memory(run), time(run)
    price = f"${spent.hours * machine.gpus * machine.price:.0f} at ${machine.price:g} a GPU-hour"
    speed = f"{spent.tokens_per_second / 1e3:.1f} k a second, {machine.utilisation:.0%} of the peak"
    return [
        f"Memory:   {memory_sum(run, need)}",
        f"          of {run.gpu.memory / GB:.0f}; {verdict(run)}",
        f"Expect:   {spent.hours:.1f} h, {price} ({spent.tokens / 1e9:.2f} B tokens at {speed}"
        + (f"; {spent.sampling_hours:.1f} h of them writing)" if run.sampling else ")"),
    ]


def launch(named: NamedRecipe, machine: Machine, file: str) -> str:
    curve = " --sizes" if named.stage == "adapt" else ""
    nodes = machine.gpus // GPUS_A_NODE
    several = f" --num_machines {nodes} --machine_rank RANK --main_process_ip FIRST_NODE" if nodes > 1 else ""
    return (
        f"accelerate launch --config_file training/recipes/accelerate/{machine.sharding}.yaml"
        f" --num_processes {machine.gpus}{several} -m training {named.stage} {file}{curve}"
    )


def recipe_text(named: NamedRecipe, machine: Machine, file: str) -> str:
    """A whole recipe file, header and fields. What is unset stands there as a comment, so that it cannot be missed."""
    missing = "".join(f"# {key} = ?  (unset)\n" for key in named.unset)
    machine = machine_for(named, machine)
    return f"{header(named, machine, file)}\n{toml_text(named.fields)}{missing}"


def listing(all_named: Mapping[str, NamedRecipe], machine: Machine) -> Iterator[tuple[str, ...]]:
    """A row a recipe: name, parameters, memory on each GPU, hours, price, what is unset."""
    for name, named in all_named.items():
        size = f"{named.architecture.parameter_count / 1e9:.2f} B"
        if named.unset:
            yield name, size, "-", "-", "-", f"{len(named.unset)} unset: see show"
            continue
        here = machine_for(named, machine)
        run = plan(named.recipe(), named.architecture, named.expected, here)
        hours = time(run).hours
        cost = f"${hours * here.gpus * here.price:.0f}"
        more = f"{here.gpus} GPUs" if here.gpus != machine.gpus else ""
        yield name, size, f"{memory(run).total / GB:.1f} GB", f"{hours:.1f}", cost, more


def estimate_lines(run: Run, machine: Machine) -> list[str]:
    """The whole estimate, a line a part."""
    need, spent = memory(run), time(run)
    parts = [
        ("weights", need.weights, ""),
        ("gradients", need.gradients, ""),
        ("optimizer states", need.optimizer, f"states together {need.states / GB:.1f} GB"),
        ("gathered weights", need.gathered, "outside the layers and two layers, with gradients on their way"),
        ("activations", need.activations, "each layer's input, one layer inside" if run.checkpointing else "all kept"),
        ("logits", need.logits, {"labels": "two labels a row"}.get(run.logits, f"{run.logits}, whole vocabulary")),
        ("allowance", need.allowance, "CUDA, NCCL, fragmentation"),
        *([("reference", need.reference, "frozen weights"), ("engine", need.engine, ENGINE)] if run.sampling else []),
        ("total", need.total, f"of {run.gpu.memory / GB:.0f} GB; {verdict(run)}"),
    ]
    finished, state = disk_bytes(run.architecture.parameter_count)
    cost = spent.hours * machine.gpus * machine.price
    return [
        f"{run.architecture.hub}: {run.architecture.parameter_count / 1e9:.3f} B parameters, {machine.gpus} x "
        f"{run.gpu.name}, {run.sharding}, {run.rows} rows x {run.row_tokens} tokens a GPU",
        "",
        "memory on each GPU, GB",
        *(f"  {name:<18}{value / GB:7.1f}  {why}".rstrip() for name, value, why in parts),
        "",
        f"time   {spent.hours:.1f} h: {spent.tokens / 1e9:.3f} B tokens, {spent.tokens_per_second:,.0f} a second at "
        f"{run.utilisation:.0%} of {run.gpu.peak_flops / 1e12:.0f} TFLOP/s",
        f"price  ${cost:,.0f} at ${machine.price:g} a GPU-hour",
        f"disk   {finished / GB:.1f} GB a finished checkpoint, {state / GB:.1f} GB a state to go on from",
    ]
