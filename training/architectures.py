"""Shapes of the backbones, and everything that follows from a shape alone: parameters, activations, arithmetic.

Counts are of LLaMA's and Qwen's transformer (RMSNorm, rotary positions, grouped queries, SwiGLU; Qwen2's queries,
keys and values have biases, Qwen3 norms each head's query and key) as the transformers library runs it in bfloat16. The
tests compare them with the library's own models on the meta device: parameters one by one, activations with what
autograd really keeps.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]

MODELS = Path(__file__).parent / "recipes" / "presets" / "models.toml"


class Architecture(BaseModel):
    """A backbone, in the words of its config.json. ``parameters`` is what its model card states, in billions."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    hub: str
    used_by: tuple[str, ...] = ()
    """Presets whose authors trained this backbone; the others apply the same settings to it."""
    model_type: Literal["llama", "qwen2", "qwen3"]
    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    intermediate_size: Positive
    vocab_size: Positive
    max_position_embeddings: Positive
    tie_word_embeddings: bool
    parameters: float = Field(gt=0.0)

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Weights of one layer that take part in a matrix product with every token."""
        attention = 2 * self.hidden_size * (self.query_width + self.key_width)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        head_norms = 2 * self.head_dim if self.model_type == "qwen3" else 0
        biases = self.query_width + 2 * self.key_width if self.model_type == "qwen2" else 0
        return self.layer_matrices + 2 * self.hidden_size + head_norms + biases

    @property
    def vocabulary_matrix(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def outer_parameters(self) -> int:
        """Outside the layers: embeddings, the head unless it is tied to them, the last norm."""
        return self.vocabulary_matrix * (1 if self.tie_word_embeddings else 2) + self.hidden_size

    @property
    def parameter_count(self) -> int:
        return self.num_hidden_layers * self.layer_parameters + self.outer_parameters

    @property
    def layer_activation_bytes(self) -> int:
        """Bytes a token leaves in one layer for the backward pass, in bfloat16, with a flash kernel for attention.

        Each norm keeps its input in float32, what it normed and what it gives; attention its queries, keys, values,
        output and one number a head; the gated layer its two products, the activation and their product.
        """
        norms = 2 * (8 * self.hidden_size + 4)
        attention = 4 * (self.query_width + self.key_width) + 4 * self.num_attention_heads
        gated = 8 * self.intermediate_size
        heads = self.num_attention_heads + self.num_key_value_heads
        head_norms = 6 * (self.query_width + self.key_width) + 4 * heads if self.model_type == "qwen3" else 0
        return norms + attention + gated + head_norms

    @property
    def layer_input_bytes(self) -> int:
        """Bytes a token leaves in one layer when only the layer's input is kept and the rest is computed again."""
        return 2 * self.hidden_size

    def forward_flop(self, tokens: int, *, with_head: bool) -> float:
        """Floating-point operations for one token of a row of ``tokens``: two for each weight, and causal attention,
        which looks back on half of the row on average."""
        matrices = self.num_hidden_layers * self.layer_matrices + (self.vocabulary_matrix if with_head else 0)
        attention = self.num_hidden_layers * 4 * self.query_width * tokens / 2
        return 2.0 * matrices + attention

    def config(self) -> dict[str, Any]:
        """The keywords of the transformers configuration class; ``model_type`` picks the class."""
        return self.model_dump(exclude={"hub", "used_by", "parameters"})


@cache
def architectures() -> dict[str, Architecture]:
    """The table of backbones by name."""
    table = tomllib.loads(MODELS.read_text(encoding="utf-8"))
    return {name: Architecture.model_validate(fields) for name, fields in table.items()}
