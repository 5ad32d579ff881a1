"""What a data set is built from, as a TOML file. Unknown keys are errors; ``$NAME`` in a path is a variable."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.data.pairs import DataError
from training.data.sources import Source
from training.data.splits import Side

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


class Section(BaseModel):
    """A table of a recipe: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DropRows(Section):
    """Row numbers (from 0) to leave out: a list in a JSON file, found under ``key`` (``"outer.inner"``)."""

    file: str
    key: str = ""

    def rows(self) -> frozenset[int]:
        """Raises `DataError` when the file holds no such list."""
        path = Path(expanded(self.file))
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot read row numbers ({error}).") from error
        listed = held
        for name in self.key.split(".") if self.key else ():
            listed = listed.get(name) if isinstance(listed, dict) else None
        if not isinstance(listed, list) or not all(isinstance(row, int) for row in listed):
            raise DataError(f"{path}, field {self.key or '(the whole file)'}: must be a list of row numbers.")
        return frozenset(listed)


class Input(Section):
    """One source. ``path`` is a file, a folder or ``hub:owner/name``; ``format`` is recognised when absent."""

    path: str
    format: str | None = None
    name: str | None = None
    """Begins the ids of its pairs and stands for it in the card; the format's name when absent."""
    side: Side | None = None
    """All of it goes to this side; what the other sides ask, too, is dropped from them."""
    min_margin: Annotated[float, Field(ge=0.0)] | None = None
    """Labelled pairs with a smaller margin, or without one, are dropped."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Read so many pairs at most, from the beginning."""
    drop_rows: DropRows | None = None
    drop_subsets: tuple[str, ...] = ()
    """Parts of a mix to leave out, by the names the source gives them."""
    hub_split: str = "train"
    hub_config: str | None = None
    hub_revision: str | None = None
    hub_folder: str | None = None
    """Only files of this folder, where a data set has folders instead of configurations."""

    def source(self) -> Source:
        """Raises `DataError` for an environment variable that is not set."""
        rows = self.drop_rows.rows() if self.drop_rows else frozenset()
        where = expanded(self.path)
        return Source(
            where, self.format, self.name, self.hub_split, self.hub_config, self.hub_revision, rows, self.hub_folder
        )


class DataRecipe(Section):
    """Everything that ``python -m training data build`` depends on."""

    inputs: Annotated[tuple[Input, ...], Field(min_length=1)]
    output: str
    seed: int = 0
    labels: Literal["required", "optional"] = "required"
    """``required`` drops pairs without a label (stage 2); ``optional`` keeps them beside the others (stage 1)."""
    validation: Fraction = 0.02
    test: Fraction = 0.0
    decontaminate: tuple[str, ...] = ()
    """Files or folders of benchmarks, in their own formats."""
    near_duplicates: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.8
    """Least similarity of near-duplicates; not looked for when it is "none"."""
    max_per_prompt: Annotated[int, Field(gt=0)] | None = None
    """At most so many pairs of one prompt, drawn by a hash of the pair."""
    max_chars: Annotated[int, Field(gt=0)] | None = None
    """Pairs whose prompt and responses together are longer are dropped, not cut."""
    shuffle_sides: bool = True
    """Which response is A is drawn anew, by seed and pair: many sources put the better one first."""

    @model_validator(mode="before")
    @classmethod
    def _none_in_words(cls, data: object) -> object:
        """TOML has no null."""
        if isinstance(data, dict) and data.get("near_duplicates") == "none":
            return {**data, "near_duplicates": None}
        return data

    @model_validator(mode="after")
    def _something_is_left_to_train(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation and test must leave something to train on: their sum must be below 1.")
        return self

    @property
    def fractions(self) -> dict[Side, float]:
        """In the order in which they are drawn: another share of test moves no pair into validation or out of it."""
        return {"validation": self.validation, "test": self.test, "train": 1.0 - self.validation - self.test}

    @classmethod
    def load(cls, path: Path, changes: Mapping[str, Any] | None = None) -> Self:
        """A file's recipe, some of its keys replaced. Raises `DataError` naming file and key that are wrong."""
        try:
            held = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist; check the path.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not TOML ({error}).") from error
        return cls.of({**held, **(changes or {})}, str(path))

    @classmethod
    def of(cls, held: Mapping[str, Any], where: str) -> Self:
        """Raises `DataError` naming ``where`` and the key that is wrong."""
        try:
            return cls.model_validate(held)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "recipe"
            raise DataError(f"{where}, field {key}: {first['msg']}.") from error


def expanded(path: str) -> str:
    """The path with its environment variables. Raises `DataError` naming one that is not set."""
    for name in _VARIABLE.findall(path):
        if name not in os.environ:
            raise DataError(f"The path {path} needs the environment variable {name}; set it.")
    return os.path.expandvars(path)
