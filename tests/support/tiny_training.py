"""Recipes of seconds: a Qwen3 of two layers and 32 dimensions, the demo's tokenizer, and pairs anyone can check."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from service.types import Prompt
from training.configs import AdaptRecipe, FinetuneRecipe, PretrainRecipe, RewardRecipe
from training.data.pairs import Pair, write_pairs

TOKENIZER = str(Path(__file__).parents[2] / "service" / "demo")
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
SCRATCH = {"scratch": SHAPE, "tokenizer": TOKENIZER}
_WORDS = ("red", "cold", "north", "day", "five", "dog", "old", "seven")


def pairs(n: int, seed: int = 1) -> list[Pair]:
    """The better response says "good". Lengths differ, so that batches hold unequal numbers of tokens."""
    rng = Random(seed)
    made = []
    for i in range(n):
        word = rng.choice(_WORDS)
        right, wrong = f"{word} " * rng.randint(0, 3) + "good", f"{word} " * rng.randint(0, 3) + "bad"
        first, second, label = (right, wrong, "a") if rng.random() < 0.5 else (wrong, right, "b")
        made.append(Pair(f"p{i}", Prompt.from_text(f"Say {word}."), first, second, label, "words", 1.0))  # type: ignore[arg-type]
    return made


def write_data(directory: Path, train: int = 64, evaluation: int = 12) -> dict[str, Any]:
    """The ``data`` table of a recipe."""
    write_pairs(directory / "train.jsonl", pairs(train))
    write_pairs(directory / "dev.jsonl", pairs(evaluation, seed=2))
    return {
        "train": (str(directory / "train.jsonl"),),
        "evaluation": str(directory / "dev.jsonl"),
        "max_tokens": 512,
    }


def language_model(path: Path, **shape: int) -> Path:
    """A checkpoint of `SHAPE`, changed by ``shape``, with random weights: for stages that start from one."""
    import torch
    from transformers import AutoTokenizer

    from training.configs import ScratchSection
    from training.stages.models import scratch_model

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    scratch_model(ScratchSection.model_validate(SHAPE | shape), tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tables(directory: Path, stage: str, **changes: Any) -> dict[str, Any]:
    """A recipe in float32, without trackers, whose files lie under ``directory``. ``changes`` replace table entries."""
    base: dict[str, Any] = {
        "stage": stage,
        "version": stage,
        "model": SCRATCH,
        "data": write_data(directory),
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"steps": 4, "kind": "constant", "warmup": 0.0},
        "batch": {"rows": 8, "rows_per_device": 8},
        "precision": {"compute": "float32"},
        "evaluation": {"every": 0},
        "output": {
            "directory": str(directory / f"{stage}-out"),
            "runs": str(directory / "runs"),
            "weights": "float32",
            "save_every": 1000,
        },
        "tracker": {"name": "none", "every": 1},
    }
    for table, values in changes.items():
        base[table] = {**base[table], **values} if isinstance(base.get(table), dict) and table != "model" else values
    return base


def pretrain_recipe(directory: Path, **changes: Any) -> PretrainRecipe:
    return PretrainRecipe.model_validate(tables(directory, "pretrain", **changes))


def finetune_recipe(directory: Path, **changes: Any) -> FinetuneRecipe:
    return FinetuneRecipe.model_validate(tables(directory, "finetune", **changes))


def adapt_recipe(directory: Path, **changes: Any) -> AdaptRecipe:
    return AdaptRecipe.model_validate(tables(directory, "adapt", **changes))


def reward_recipe(directory: Path, **changes: Any) -> RewardRecipe:
    return RewardRecipe.model_validate(tables(directory, "reward", **changes))


def tiny_backbone(model_type: str, path: Path, **shape: int) -> Path:
    """A fresh checkpoint of an architecture with the demo's tokenizer; ``shape`` changes `SHAPE`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        model_type,
        **SHAPE | shape,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
