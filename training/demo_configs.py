"""Typed recipes: one TOML file per run, read without torch. Unknown keys are errors, so no typo trains silently."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A table of a recipe: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerSection(Section):
    """``vocab_size`` is an upper bound: merging stops earlier when nothing repeats."""

    vocab_size: Positive
    pairs_per_task: Positive


class ModelSection(Section):
    """Shape of the Qwen3 transformer, in the words of its config.json."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    intermediate_size: Positive
    max_position_embeddings: Positive
    rope_theta: float = Field(gt=0.0)


class DataSection(Section):
    """``task_weights``: how often a task is drawn, relative to the others; tasks that are not named are not trained."""

    task_weights: dict[str, Annotated[float, Field(gt=0.0)]]
    label_pairs: Positive
    """Pairs of a direct-label step, each in one random order: different pairs teach more than both orders."""
    rationale_pairs: Positive
    rationale_every: int = Field(ge=2)
    """One step in this many trains the rationale format, the others the direct label."""
    plain_until: Fraction
    styled_from: Fraction
    """Training begins with bare questions and answers; style noise comes in between these two parts of the run."""
    length_groups: Positive
    """Rows of a step are sorted by length and run in this many groups, to save padding; the gradient is the same."""


class LossSection(Section):
    """``smoothing`` is alpha, the target mass of the wrong label (PyTorch's ``label_smoothing`` is twice that)."""

    smoothing: float = Field(gt=0.0, lt=0.5)
    label_mass_weight: float = Field(ge=0.0)
    rationale_weight: float = Field(gt=0.0)
    """Language-model loss of a written judgment (a mean over its tokens, most of which say nothing new)."""
    chosen_lm_weight: float = Field(ge=0.0)
    """Language-model loss of the better response, given the question."""
    response_verdict_weight: float = Field(ge=0.0)
    """Two-way cross-entropy of " right" against " wrong" at the end of each response: two answers for every label."""


class OptimizerSection(Section):
    """Muon for the weight matrices of the layers, AdamW for the rest; linear warm-up, linear decay to zero."""

    steps: Positive
    warmup_steps: int = Field(ge=0)
    decay_from: Fraction
    """Part of the run after which the rates fall linearly to zero."""
    matrix_lr: float = Field(gt=0.0)
    vector_lr: float = Field(gt=0.0)
    matrix_weight_decay: float = Field(ge=0.0)
    clip_norm: float = Field(gt=0.0)
    bfloat16: bool
    threads: Positive


class EvaluationSection(Section):
    every: Positive
    label_pairs: Positive
    rationale_pairs: Positive
    final_label_pairs: Positive
    final_rationale_pairs: Positive
    seed: int


class Recipe(Section):
    """Everything a run of ``python -m training finetune`` depends on."""

    version: str
    seed: int
    output: str
    tokenizer: TokenizerSection
    model: ModelSection
    data: DataSection
    loss: LossSection
    optimizer: OptimizerSection
    evaluation: EvaluationSection

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a recipe file. Raises pydantic's `ValidationError` naming each wrong key."""
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))

    @model_validator(mode="after")
    def _plain_before_styled(self) -> Self:
        if self.data.plain_until >= self.data.styled_from:
            raise ValueError("plain_until must be smaller than styled_from.")
        return self

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> Self:
        if self.model.num_attention_heads % self.model.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads.")
        return self
