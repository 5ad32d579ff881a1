"""Named recipes ``PRESET/BACKBONE/STAGE``: a preset a file, and the backbones, instead of a file for each recipe.

A preset (`training/recipes/presets/*.toml`) holds what its authors said, stage by stage; `models.toml` holds the
backbones. `resolve` puts them together into an ordinary recipe of `training.configs`; `training.planning` writes it
out with hardware, launch command, memory arithmetic and expected hours on top. What a source does not state is *unset*:
there is no recipe until the user has given it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from training.architectures import MODELS, Architecture, architectures
from training.configs import AdaptRecipe, FinetuneRecipe, PretrainRecipe, RewardRecipe
from training.data.pairs import DataError
from training.recipe_files import Recipe
from training.writing_configs import DistillRecipe, GrpoRecipe

Stage = Literal["pretrain", "finetune", "adapt", "reward", "distill", "grpo"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PresetRecipe = PretrainRecipe | FinetuneRecipe | AdaptRecipe | RewardRecipe | DistillRecipe | GrpoRecipe
PRESETS = MODELS.parent
_RECIPE: TypeAdapter[Any] = TypeAdapter(Recipe)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Expected(BaseModel):
    """How much data the source trained on, for the estimate: pairs, tokens of a row on average, of which a stage
    that samples writes ``written_tokens`` itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: int = Field(gt=0)
    mean_tokens: float = Field(gt=0)
    written_tokens: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset file: what its stages share, and each stage's own tables, unset keys and expectation. A source that says
    nothing of a stage has none of it."""

    name: str
    title: str
    source: str
    stages: Mapping[Stage, Mapping[str, Any]]
    unset: Mapping[Stage, tuple[str, ...]]
    expected: Mapping[Stage, Expected]
    backbones: Mapping[Stage, tuple[str, ...]]
    gpus: Mapping[Stage, Mapping[str, int]]
    """GPUs of a backbone where eight are not enough, or not what the source used."""
    own: Mapping[Stage, Mapping[str, Mapping[str, Any]]]
    """What differs for a backbone."""


@dataclass(frozen=True, slots=True)
class NamedRecipe:
    """One preset applied to one backbone at one stage; ``fields`` are those of a recipe file, ``unset`` are missing."""

    name: str
    preset: Preset
    backbone: str
    stage: Stage
    fields: Mapping[str, Any]
    unset: tuple[str, ...]

    @property
    def architecture(self) -> Architecture:
        return architectures()[self.backbone]

    @property
    def gpus(self) -> int:
        """How many GPUs the recipe is planned for."""
        return self.preset.gpus[self.stage].get(self.backbone, 8)

    @property
    def expected(self) -> Expected:
        return self.preset.expected[self.stage]

    def recipe(self) -> PresetRecipe:
        """The typed recipe. Raises `DataError` naming what the source leaves open, or a wrong key."""
        if self.unset:
            given = " ".join(f"--set {key}=..." for key in self.unset)
            raise DataError(
                f"{self.name}: {self.preset.source} does not state {', '.join(self.unset)}; give them: {given}"
            )
        try:
            made: PresetRecipe = _RECIPE.validate_python(self.fields)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
            raise DataError(f"{self.name}: {wrong}.") from error
        return made


def names() -> list[str]:
    """Every named recipe, presets first."""
    return [
        f"{name}/{backbone}/{stage}"
        for name, preset in presets().items()
        for backbone in architectures()
        for stage in preset.stages
        if backbone in preset.backbones[stage]
    ]


@cache
def presets() -> dict[str, Preset]:
    """The presets by name, from their files."""
    return {path.stem: _preset(path) for path in sorted(PRESETS.glob("*.toml")) if path != MODELS}


def _preset(path: Path) -> Preset:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    parts = {stage: dict(data[stage]) for stage in STAGES if stage in data}
    expected = {stage: Expected.model_validate(part.pop("expect")) for stage, part in parts.items()}
    unset = {stage: tuple(part.pop("unset", ())) for stage, part in parts.items()}
    backbones = {stage: tuple(part.pop("backbones", data["backbones"])) for stage, part in parts.items()}
    gpus = {stage: part.pop("gpus", {}) for stage, part in parts.items()}
    own = {stage: part.pop("for", {}) for stage, part in parts.items()}
    stages = {stage: merged(data["shared"], part) for stage, part in parts.items()}
    return Preset(path.stem, data["title"], data["source"], stages, unset, expected, backbones, gpus, own)


def resolve(name: str, changes: Sequence[str] = ()) -> NamedRecipe:
    """The recipe of a name, with ``changes`` such as ``batch.rows=256`` (values as in TOML; plain words are texts).

    Raises `DataError` for an unknown name, with the nearest known parts, or a change that is not KEY=VALUE.
    """
    if name not in names():
        offered = " / ".join("|".join(options) for options in (presets(), architectures(), STAGES))
        raise DataError(f"There is no recipe {name}; names are PRESET/BACKBONE/STAGE: {offered}.")
    first, backbone, last = name.split("/")
    preset, stage = presets()[first], cast(Stage, last)
    given = dict(_change(change) for change in changes)
    fields = merged(_frame(preset, backbone, stage), preset.stages[stage])
    fields = merged(fields, preset.own[stage].get(backbone, {}))
    for key, value in given.items():
        fields = merged(fields, _nested(key, value))
    return NamedRecipe(name, preset, backbone, stage, fields, tuple(k for k in preset.unset[stage] if k not in given))


def _frame(preset: Preset, backbone: str, stage: Stage) -> dict[str, Any]:
    """What follows from the name alone: a stage starts from what the one before leaves, if the preset has that."""
    checkpoints = {one: f"checkpoints/{preset.name}-{backbone}-{one}" for one in STAGES}
    before: dict[Stage, Stage] = {"finetune": "pretrain", "adapt": "finetune", "grpo": "distill"}
    goes_on = stage in before and backbone in preset.backbones.get(before[stage], ())
    start = checkpoints[before[stage]] if goes_on else architectures()[backbone].hub
    return {
        "stage": stage,
        "version": f"{preset.name}-{backbone}-{stage}",
        "model": {"path": start},
        "output": {"directory": checkpoints[stage]},
    }


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(map(_BARE_KEY.fullmatch, key.split("."))):
        raise DataError(f"--set {text}: must be KEY=VALUE, such as batch.rows=256.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    made: dict[str, Any] = value
    return made


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables joined key by key, all the way down; the second wins."""
    out = dict(base)
    for key, value in over.items():
        inner = out.get(key)
        out[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return out


def toml_text(fields: Mapping[str, Any]) -> str:
    """A recipe's fields as TOML: plain values first, then a table each."""
    return "\n".join(_lines(fields, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if path and plain:
        yield f"\n[{'.'.join(path)}]"
    for key, value in plain.items():
        yield f"{key} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*path, key))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and not isinstance(value, bool):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
