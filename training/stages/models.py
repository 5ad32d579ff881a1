"""Backbones and tokenizers, checked before anything is trained: what a checkpoint is, and that the tokenizer fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from service.manifest import Manifest
from training.configs import LoraSection, ModelSection, PrecisionSection, ScratchSection
from training.data.pairs import DataError

_WHERE_LOADED = ("is_local", "local_files_only")
"""What the library keeps of the way a tokenizer was loaded, and would write into every checkpoint it is saved with."""


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer, with a padding token. Raises `DataError`."""
    name = section.tokenizer or section.path
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=section.revision, trust_remote_code=False)
    except Exception as error:  # the libraries below raise anything for a broken file
        raise DataError(
            f"Cannot load a tokenizer from {name}; check the path, or the connection ({_reason(error)})."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for name in _WHERE_LOADED:
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def load_causal(section: ModelSection, precision: PrecisionSection, tokenizer: PreTrainedTokenizerBase) -> Any:
    """A causal language model in the recipe's weight type, not wrapped in adapters yet. Raises `DataError`."""
    if section.scratch is not None:
        model = scratch_model(section.scratch, tokenizer)
        model.set_attn_implementation(section.attention)
        return model.to(getattr(torch, precision.weights))
    _require_architecture(section, "ForCausalLM", "a causal language model")
    model = _load(AutoModelForCausalLM, section, precision)
    check_vocabulary(model, tokenizer)
    return model


def load_scalar(section: ModelSection, precision: PrecisionSection, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The backbone with a fresh head of one output (or the checkpoint's own). Raises `DataError`."""
    if section.scratch is not None:
        raise DataError("The reward stage starts from a language model: give model.path, not model.scratch.")
    model = _load(AutoModelForSequenceClassification, section, precision, num_labels=1)
    check_vocabulary(model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def scratch_model(shape: ScratchSection, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A fresh Qwen3 transformer of the recipe's shape, in float32."""
    config = Qwen3Config(
        **shape.model_dump(exclude={"rope_theta"}),
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def with_adapters(model: PreTrainedModel, lora: LoraSection, task: str = "CAUSAL_LM") -> Any:
    """The model with trainable low-rank adapters; its own weights rest."""
    targets: Any = lora.targets[0] if lora.targets == ("all-linear",) else list(lora.targets)
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type=task
    )
    return get_peft_model(model, settings)


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `DataError` when the tokenizer writes tokens that the model has no embedding for."""
    rows, tokens = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if tokens > rows:
        raise DataError(f"The tokenizer has {tokens} tokens, the model {rows} embeddings; they do not belong together.")


def check_positions(model: PreTrainedModel, max_tokens: int) -> None:
    """Raises `DataError` when rows may be longer than the model can place."""
    positions = int(model.config.max_position_embeddings)
    if max_tokens > positions:
        raise DataError(f"data.max_tokens = {max_tokens} is more than the model's {positions} positions; lower it.")


def require_family(path: str, family: str) -> None:
    """A checkpoint that says what judge it holds must hold this one. Raises `DataError`."""
    manifest = Manifest.load(path) if Path(path).is_dir() else None
    if manifest is None:
        return
    found = sorted({entry.family for entry in manifest.judges})
    if family not in found:
        raise DataError(f"{path} is a checkpoint of family {', '.join(found)}, not of {family}; name another one.")


def require_judge(path: str, family: str) -> None:
    """`require_family`, for stages that go on from a judge. Raises `DataError` when there is no judge.json."""
    if Path(path).is_dir() and Manifest.load(path) is None:
        raise DataError(f"{path} has no judge.json: it is no judge yet; train it by `finetune` first.")
    require_family(path, family)


def _load(kind: Any, section: ModelSection, precision: PrecisionSection, **more: Any) -> Any:
    try:
        return kind.from_pretrained(
            section.path,
            revision=section.revision,
            dtype=getattr(torch, precision.weights),
            attn_implementation=section.attention,
            trust_remote_code=False,
            use_safetensors=True,
            **more,
        )
    except Exception as error:
        raise DataError(
            f"Cannot load a model from {section.path}; check the path, or the connection ({_reason(error)})."
        ) from error


def _require_architecture(section: ModelSection, ending: str, what: str) -> None:
    """A head that is missing in the checkpoint would be filled with random numbers without an error."""
    try:
        config = AutoConfig.from_pretrained(section.path, revision=section.revision, trust_remote_code=False)
    except Exception as error:
        raise DataError(
            f"Cannot load a model from {section.path}; check the path, or the connection ({_reason(error)})."
        ) from error
    names = config.architectures or []
    if names and not any(name.endswith((ending, "LMHeadModel")) for name in names):
        raise DataError(f"{section.path} is a {names[0]}, not {what}; name another checkpoint.")


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
