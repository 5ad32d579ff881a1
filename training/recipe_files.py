"""Recipe files of every stage: which schema a file has, and one sentence for what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from training.configs import AdaptRecipe, FinetuneRecipe, PretrainRecipe, RewardRecipe
from training.data.pairs import DataError
from training.writing_configs import DistillRecipe, GrpoRecipe, ProveRecipe, ReasonRecipe

GramRecipe = PretrainRecipe | FinetuneRecipe | AdaptRecipe | RewardRecipe
AnyRecipe = GramRecipe | ReasonRecipe | ProveRecipe | DistillRecipe | GrpoRecipe
Recipe = Annotated[AnyRecipe, Field(discriminator="stage")]
_RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Recipe)


def load_recipe(path: Path) -> AnyRecipe:
    """Read and check a recipe file. Raises `DataError` naming the file and every wrong key."""
    try:
        return _RECIPE.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name a recipe, such as those of training/recipes/.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML ({error}); correct it.") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the recipe'}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path}: {wrong}.") from error
