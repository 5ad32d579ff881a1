"""Recipe files of every stage: which schema a file has, and one sentence for what is wrong with it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from training.configs import AdaptRecipe, FinetuneRecipe, PretrainRecipe, RewardRecipe
from training.data.pairs import DataError
from training.writing_configs import DistillRecipe, GrpoRecipe, ProveRecipe, ReasonRecipe

GramRecipe = PretrainRecipe | FinetuneRecipe | AdaptRecipe | RewardRecipe
AnyRecipe = GramRecipe | ReasonRecipe | ProveRecipe | DistillRecipe | GrpoRecipe
Recipe = Annotated[AnyRecipe, Field(discriminator="stage")]
_RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Recipe)
Checked = TypeVar("Checked")


def load_recipe(path: Path) -> AnyRecipe:
    """Read and check a recipe file. Raises `DataError` naming the file and every wrong key."""
    return read_checked(path, _RECIPE.validate_python)


def read_checked(path: Path, check: Callable[[Any], Checked]) -> Checked:
    """A TOML file as ``check`` makes it, whose `ValidationError` is told in one sentence. Raises `DataError`."""
    try:
        return check(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name a recipe, such as those of training/recipes/.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML ({error}); correct it.") from error
    except ValidationError as error:
        raise DataError(f"{path}: {wrong_keys(error)}.") from error


def wrong_keys(error: ValidationError) -> str:
    """Every wrong key with what is wrong with it."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the recipe'}: {e['msg']}" for e in error.errors())
